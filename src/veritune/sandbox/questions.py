"""Tests taken apart: what is asked of the answer, and what is expected of it.

Expected values never enter the sandbox of the answer.  Where a test is an assert on one
call and a literal, the call alone goes in and the value that comes out is compared outside.
Tests of any other form run in a second sandbox, which calls the answer's functions from afar.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from veritune.sandbox.outcome import Job

_PARSER = doctest.DocTestParser()
_CHECKER = doctest.OutputChecker()
# Python 3.11 counts the depth of its trees once for all threads, and stops where two of them
# parse at the same time ("AST constructor recursion depth mismatch").
_PARSING = threading.Lock()


class BadTests(ValueError):
    """Tests that cannot be run by anybody; the message says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the answer's process does, and what should come of it.

    Attributes:
        kind: ``statement``, ``value`` or ``example``.
        source: what is run inside.
        relation: how a value is compared with ``expected``.
        expected: a literal, or the ``doctest.Example``.
    """

    kind: Literal["statement", "value", "example"]
    source: str
    relation: Literal["equal", "unequal", "is", "is not", "true", "false"] = "true"
    expected: Any = None

    def holds(self, value: Any) -> bool:
        """Whether a value that came out is the expected one."""
        if self.kind == "statement":
            return True
        if self.kind == "example":
            return _prints_as_wanted(self.expected, value)
        if self.relation in ("true", "false"):
            return bool(value) == (self.relation == "true")
        if self.relation in ("is", "is not"):
            return (value is self.expected) == (self.relation == "is")
        return bool(value == self.expected) == (self.relation == "equal")

    def describe(self) -> str:
        """The step on one line, as far as a reader needs it."""
        return " ".join(self.source.split())[:200]


@dataclass(frozen=True, slots=True)
class Check:
    """Tests that run in a process of their own.

    Attributes:
        source: the tests.
        function: name of the function that is handed the entry point; empty if none.
        remote: names that stand for functions of the answer.
    """

    source: str
    function: str
    remote: tuple[str, ...]


def plan(job: Job) -> list[Step] | Check:
    """How a job's tests are run.

    Raises:
        BadTests: they do not parse, or mix forms that cannot be mixed.
    """
    bodies: list[ast.stmt] = []
    steps: list[Step] = []
    examples = False
    for test in job.tests:
        if test.lstrip().startswith(">>>"):
            examples = True
            steps += _examples(test)
            continue
        body = _parse(test, "a test")
        bodies += body
        steps += _steps(test, body)
    split = None not in steps
    defines_check = any(
        isinstance(node, ast.FunctionDef) and node.name == "check" for node in bodies
    )
    if split and not defines_check:
        return steps
    if examples:
        raise BadTests("doctest examples cannot be mixed with asserts that compare two calls")
    function = "check" if defines_check and not _calls_check(bodies) else ""
    if function and not job.entry_point:
        raise BadTests("`def check(candidate)` needs an entry_point")
    unknown = _unknown(bodies, job)
    # Tests that lean on a module the answer imports get the real one, not the answer's.
    modules = unknown & _attribute_bases(bodies) & sys.stdlib_module_names
    source = "\n".join([*(f"import {name}" for name in sorted(modules)), *job.tests])
    remote = (unknown - modules) | ({job.entry_point} if job.entry_point else set())
    return Check(source, function, tuple(sorted(remote)))


def _examples(text: str) -> list[Step]:
    try:
        found = _PARSER.get_examples(text)
    except ValueError as error:
        raise BadTests(f"a doctest is malformed: {error}") from None
    return [Step("example", item.source, expected=item) for item in found]


def _parse(source: str, what: str) -> list[ast.stmt]:
    try:
        with _PARSING:
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTests(f"{what} is not valid Python: {error}") from None


def _steps(source: str, body: Sequence[ast.stmt]) -> list[Any]:
    """Steps in order; None stands for an assert that cannot be taken apart."""
    return [
        _assertion(node)
        if isinstance(node, ast.Assert)
        else Step("statement", ast.get_source_segment(source, node) or ast.unparse(node))
        for node in body
    ]


def _assertion(node: ast.Assert) -> Step | None:
    test = node.test
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _truth(test.operand, "false")
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        relation = _RELATIONS.get(type(test.ops[0]))
        if relation is not None:
            return _comparison(test.left, test.comparators[0], relation)
        return None
    return _truth(test, "true")


_RELATIONS: dict[type[ast.cmpop], Any] = {
    ast.Eq: "equal",
    ast.NotEq: "unequal",
    ast.Is: "is",
    ast.IsNot: "is not",
}


def _comparison(left: ast.expr, right: ast.expr, relation: Any) -> Step | None:
    for call, literal in ((left, right), (right, left)):
        known, expected = _literal(literal)
        if not known or _literal(call)[0]:
            continue
        by_identity = relation in ("is", "is not")
        if by_identity and not (expected is None or isinstance(expected, bool)):
            return None
        return Step("value", ast.unparse(call), relation, expected)
    return None


def _truth(expression: ast.expr, relation: Any) -> Step | None:
    """A bare call of the answer's own function; anything more could lie about its truth."""
    if not isinstance(expression, ast.Call) or not isinstance(expression.func, ast.Name):
        return None
    if hasattr(builtins, expression.func.id):
        return None
    return Step("value", ast.unparse(expression), relation)


def _literal(node: ast.expr) -> tuple[bool, Any]:
    try:
        return True, ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False, None


def _calls_check(bodies: Sequence[ast.stmt]) -> bool:
    return any(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "check"
        for node in bodies
    )


def _unknown(bodies: Sequence[ast.stmt], job: Job) -> set[str]:
    """Names that the tests use and that neither they, nor test_setup, nor Python define."""
    setup = _parse(job.test_setup, "test_setup")
    known = {name for node in (*bodies, *setup) for name in _stored(node)}
    used = {
        item.id
        for node in bodies
        for item in ast.walk(node)
        if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Load)
    }
    return {name for name in used - known if not hasattr(builtins, name)}


def _attribute_bases(bodies: Sequence[ast.stmt]) -> set[str]:
    return {
        item.value.id
        for node in bodies
        for item in ast.walk(node)
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name)
    }


def _stored(node: ast.AST) -> Iterator[str]:
    for item in ast.walk(node):
        if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load):
            yield item.id
        elif isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield item.name
        elif isinstance(item, ast.arg):
            yield item.arg
        elif isinstance(item, ast.alias):
            yield (item.asname or item.name).split(".")[0]
        elif isinstance(item, ast.ExceptHandler) and item.name:
            yield item.name


def _prints_as_wanted(example: doctest.Example, value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        return False
    printed, raised = value
    flags = 0
    for flag, wanted in example.options.items():
        flags = flags | flag if wanted else flags & ~flag
    if flags & doctest.SKIP:
        return True
    if raised is None:
        return example.exc_msg is None and _CHECKER.check_output(example.want, printed, flags)
    if example.exc_msg is None or not isinstance(raised, str):
        return False
    if _CHECKER.check_output(example.exc_msg, raised, flags):
        return True
    return bool(flags & doctest.IGNORE_EXCEPTION_DETAIL) and (
        example.exc_msg.partition(":")[0].rpartition(".")[2]
        == raised.partition(":")[0].rpartition(".")[2]
    )
