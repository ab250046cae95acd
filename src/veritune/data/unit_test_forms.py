"""One unit test as statements with plain asserts: from pytest's form and from unittest's.

Only what needs nothing around it is taken: no fixtures, no set-up, no mocks.  Parametrised
tests are written out.  What cannot be put into plain asserts is not a test for us.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Callable, Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef

_MAX_CASES = 20
_COMPARED: dict[str, type[ast.cmpop]] = {
    "assertEqual": ast.Eq,
    "assertEquals": ast.Eq,
    "assertListEqual": ast.Eq,
    "assertDictEqual": ast.Eq,
    "assertTupleEqual": ast.Eq,
    "assertSetEqual": ast.Eq,
    "assertSequenceEqual": ast.Eq,
    "assertMultiLineEqual": ast.Eq,
    "assertNotEqual": ast.NotEq,
    "assertIs": ast.Is,
    "assertIsNot": ast.IsNot,
    "assertIn": ast.In,
    "assertNotIn": ast.NotIn,
    "assertGreater": ast.Gt,
    "assertGreaterEqual": ast.GtE,
    "assertLess": ast.Lt,
    "assertLessEqual": ast.LtE,
}


class _Unsupported(Exception):
    """The test needs what an answer's tests cannot have."""


def unit_tests(tree: ast.Module) -> Iterator[tuple[int, list[ast.stmt]]]:
    """(line, statements) of each unit test of a file that can be written as plain asserts."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield from _one(node, ())
        elif isinstance(node, ast.ClassDef) and _is_simple_class(node):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name.startswith("test"):
                    yield from _one(item, ("self",))


def is_straight(body: list[ast.stmt]) -> bool:
    """Whether asserts stand at top level only, so that each can be taken apart."""
    hidden = (ast.Assert, ast.Return, ast.Raise, ast.Try, ast.Global, ast.Nonlocal)
    return not any(
        isinstance(node, hidden)
        for statement in body
        if not isinstance(statement, ast.Assert)
        for node in ast.walk(statement)
    )


def _is_simple_class(node: ast.ClassDef) -> bool:
    """A TestCase or a pytest class without set-up of its own."""
    bases = [ast.unparse(base) for base in node.bases]
    is_test = node.name.startswith("Test") or any(base.endswith("TestCase") for base in bases)
    plain = all(base.rpartition(".")[2] in ("TestCase", "object") for base in bases)
    own = {getattr(item, "name", "").lower() for item in node.body}
    return (
        is_test
        and plain
        and not node.decorator_list
        and not any(name.startswith("setup") or name.startswith("teardown") for name in own)
    )


def _one(function: ast.FunctionDef, given: tuple[str, ...]) -> Iterator[tuple[int, list[ast.stmt]]]:
    try:
        cases = _cases(function, given)
        body = _Asserts().statements(function.body)
        nodes = [node for statement in (*cases, *body) for node in ast.walk(statement)]
        if any(_needs_more(node) for node in nodes) or not _asserts(nodes):
            return
        if cases:
            body = [item for case in cases for item in (case, *copy.deepcopy(body))]
    except _Unsupported:
        return
    yield function.lineno, body


def _asserts(nodes: list[ast.AST]) -> bool:
    return any(isinstance(node, ast.Assert | ast.Try) for node in nodes)


def _needs_more(node: ast.AST) -> bool:
    if isinstance(node, ast.Yield | ast.YieldFrom | ast.Await | ast.AsyncFor | ast.AsyncWith):
        return True
    return isinstance(node, ast.Name) and node.id in ("self", "cls", "pytest", "unittest", "mock")


def _cases(function: ast.FunctionDef, given: tuple[str, ...]) -> list[ast.stmt]:
    """The assignments of a parametrised test's cases; empty for a test without parameters.

    Raises:
        _Unsupported: it wants fixtures, or is decorated with anything else.
    """
    arguments = function.args
    names = [item.arg for item in arguments.args]
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
        raise _Unsupported
    if tuple(names[: len(given)]) != given or arguments.defaults:
        raise _Unsupported
    wanted = set(names[len(given) :])
    if not wanted and not function.decorator_list:
        return []
    if len(function.decorator_list) != 1:
        raise _Unsupported
    mark = function.decorator_list[0]
    if (
        not isinstance(mark, ast.Call)
        or ast.unparse(mark.func) != "pytest.mark.parametrize"
        or len(mark.args) != 2
        or any(keyword.arg != "ids" for keyword in mark.keywords)
    ):
        raise _Unsupported
    targets = _parameter_names(mark.args[0])
    values = mark.args[1]
    if set(targets) != wanted or not isinstance(values, ast.List | ast.Tuple):
        raise _Unsupported
    return [_assigned(targets, value) for value in values.elts[:_MAX_CASES]]


def _parameter_names(node: ast.expr) -> list[str]:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        raise _Unsupported from None
    names = value.split(",") if isinstance(value, str) else list(value)
    if not all(isinstance(name, str) and name.strip().isidentifier() for name in names):
        raise _Unsupported
    return [name.strip() for name in names]


def _assigned(names: list[str], value: ast.expr) -> ast.stmt:
    targets: list[ast.expr] = [ast.Name(name, ast.Store()) for name in names]
    target = targets[0] if len(targets) == 1 else ast.Tuple(targets, ast.Store())
    return ast.fix_missing_locations(ast.Assign([target], copy.deepcopy(value), lineno=1))


class _Asserts(ast.NodeTransformer):
    """Methods of TestCase and ``pytest.raises`` as statements that need neither."""

    def statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """A body rewritten, its docstring gone."""
        found = itertools.chain.from_iterable(
            [new] if isinstance(new, ast.stmt) else new
            for statement in body
            if not _is_docstring(statement)
            if (new := self.visit(copy.deepcopy(statement))) is not None
        )
        return [ast.fix_missing_locations(item) for item in found]

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        """``self.assert…(…)``."""
        call = node.value
        if not isinstance(call, ast.Call) or not _is_of_self(call.func):
            return node
        assert isinstance(call.func, ast.Attribute)
        name, arguments = call.func.attr, call.args
        if name in ("assertRaises", "failUnlessRaises") and len(arguments) >= 2:
            raising = ast.Call(arguments[1], arguments[2:], call.keywords)
            return _raises(arguments[0], [ast.Expr(raising)])
        if any(isinstance(item, ast.Starred) for item in arguments):
            raise _Unsupported
        return ast.Assert(_condition(name, arguments, call.keywords))

    def visit_With(self, node: ast.With) -> ast.stmt | list[ast.stmt]:
        """``with self.subTest(…)``, ``with self.assertRaises(E)``, ``with pytest.raises(E)``."""
        body = self.statements(node.body)
        call = node.items[0].context_expr
        if len(node.items) != 1 or not isinstance(call, ast.Call):
            return ast.With(node.items, body)
        name = ast.unparse(call.func)
        if name == "self.subTest":
            return body
        if name in ("self.assertRaises", "pytest.raises"):
            if len(call.args) != 1 or call.keywords or node.items[0].optional_vars:
                raise _Unsupported
            return _raises(call.args[0], body)
        return ast.With(node.items, body)


def _condition(name: str, arguments: list[ast.expr], keywords: list[ast.keyword]) -> ast.expr:
    others = {item.arg for item in keywords} - {"msg"}
    if name in _COMPARED and len(arguments) >= 2 and not others:
        return ast.Compare(arguments[0], [_COMPARED[name]()], [arguments[1]])
    one: dict[str, Callable[[ast.expr], ast.expr]] = {
        "assertTrue": lambda value: value,
        "assertFalse": lambda value: ast.UnaryOp(ast.Not(), value),
        "assertIsNone": lambda value: ast.Compare(value, [ast.Is()], [ast.Constant(None)]),
        "assertIsNotNone": lambda value: ast.Compare(value, [ast.IsNot()], [ast.Constant(None)]),
    }
    if name in one and arguments and not others:
        return one[name](arguments[0])
    if name == "assertIsInstance" and len(arguments) >= 2 and not others:
        return ast.Call(ast.Name("isinstance", ast.Load()), arguments[:2], [])
    if name == "assertAlmostEqual" and len(arguments) >= 2 and others <= {"places"}:
        places = next((item.value for item in keywords if item.arg == "places"), ast.Constant(7))
        difference = ast.BinOp(arguments[0], ast.Sub(), arguments[1])
        rounded = ast.Call(ast.Name("round", ast.Load()), [difference, places], [])
        return ast.Compare(rounded, [ast.Eq()], [ast.Constant(0)])
    raise _Unsupported


def _raises(exception: ast.expr, body: list[ast.stmt]) -> ast.Try:
    failing = ast.Raise(ast.Call(ast.Name("AssertionError", ast.Load()), [], []))
    handler = ast.ExceptHandler(exception, None, [ast.Pass()])
    return ast.Try(body, [handler], [failing], [])


def _is_of_self(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and node.attr not in ("subTest",)
    )


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
