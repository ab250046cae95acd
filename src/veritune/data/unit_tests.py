"""The unit tests of a code base, found again by the functions that they call.

The original is not importable where an answer is judged, and must not be: a test that reached it
would test nothing.  So the names that a test imports from the module of a function are turned
into plain names, which the answer and its ``test_setup`` define.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from veritune.data.candidates import Trial
from veritune.data.syntax import parse
from veritune.data.unit_test_forms import is_straight, unit_tests

_MAX_CHARACTERS = 6000
_MAX_PER_FUNCTION = 6
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Import:
    """What a name of a test file stands for.

    Attributes:
        module: parts of the module's name; relative ones are made absolute in the code base.
        name: what is taken from it; empty for the module itself, ``*`` for everything.
        statement: the import of this name alone.
    """

    bound: str
    module: Path
    name: str
    statement: str


@dataclass(frozen=True, slots=True)
class _Case:
    """One unit test as text, with what it uses of its file."""

    body: str
    before: tuple[str, ...]
    imports: tuple[_Import, ...]
    straight: bool
    where: str


class UnitTests:
    """Unit tests by the names of the functions that they call."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[_Case]] = defaultdict(list)

    def add(self, text: str, name: str, package: str) -> None:
        """Take in the tests of one file.

        Args:
            text: its source.
            name: its path inside the code base.
            package: name of the code base's own folder.
        """
        tree = parse(text)
        if isinstance(tree, str):
            return
        file = _File(tree, module_path(name, package))
        for line, body in unit_tests(tree):
            used = file.used_by(body)
            source = "\n".join(ast.unparse(item) for item in body)
            if used is None or len(source) > _MAX_CHARACTERS:
                continue
            before, imports = used
            straight = is_straight(body) and all(is_straight([item]) for item in before)
            texts = tuple(ast.unparse(item) for item in before)
            case = _Case(source, texts, imports, straight, f"{name}:{line}")
            own_names = {item.bound: item.name for item in imports if item.name}
            for called in {own_names.get(name, name) for name in _called(body)}:
                self._by_name[called].append(case)

    def of(self, module: Path, function: str, owner: str) -> tuple[Trial, ...]:
        """The tests that call a function, as they run beside an answer.

        Args:
            module: parts of the module's name, as ``module_path`` gives them.
            owner: the class of a method, else empty.
        """
        cases = self._by_name.get(function, [])
        found = (_as_trial(case, module, function, owner) for case in cases)
        return tuple(item for item in found if item is not None)[:_MAX_PER_FUNCTION]


def module_path(name: str, package: str) -> Path:
    """``pkg/sub/module.py`` as parts, without ``__init__``, the code base's folder in front."""
    parts = name.removesuffix(".py").split("/")
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return (*([package] if package else []), *parts)


class _File:
    """What a test file binds at its top level."""

    def __init__(self, tree: ast.Module, path: Path) -> None:
        self._imports: dict[str, _Import] = {}
        self._stars: list[_Import] = []
        self._others: dict[str, ast.stmt] = {}
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for found in _imports(node, path):
                    if found.name == "*":
                        self._stars.append(found)
                    self._imports[found.bound] = found
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for item in (item for target in targets for item in ast.walk(target)):
                    if isinstance(item, ast.Name):
                        self._others[item.id] = node
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                self._others[node.name] = node

    def used_by(self, body: list[ast.stmt]) -> tuple[list[ast.stmt], tuple[_Import, ...]] | None:
        """The statements of the file that a test needs, in order of need, and its imports."""
        before: dict[int, ast.stmt] = {}
        imports: dict[str, _Import] = {}
        waiting, seen = list(_free(body)), set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self._imports:
                imports[name] = self._imports[name]
            elif name in self._others:
                statement = self._others[name]
                before[statement.lineno] = statement
                waiting += _free([statement])
        if len(before) > 10:
            return None
        return [before[line] for line in sorted(before)], (*imports.values(), *self._stars)


def _imports(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[_Import]:
    if isinstance(node, ast.Import):
        for item in node.names:
            parts = tuple(item.name.split("."))
            statement = ast.unparse(ast.Import([item]))
            yield _Import(item.asname or parts[0], parts, "", statement)
        return
    base = path[: len(path) - node.level] if node.level else ()
    module = (*base, *(node.module.split(".") if node.module else ()))
    for item in node.names:
        statement = ast.unparse(ast.ImportFrom(node.module, [item], node.level))
        yield _Import(item.asname or item.name, module, item.name, statement)


def _free(body: list[ast.stmt]) -> set[str]:
    """Names that a body uses; those it binds first are found again and do no harm."""
    names = {item.id for node in body for item in ast.walk(node) if isinstance(item, ast.Name)}
    return {name for name in names if not hasattr(builtins, name)}


def _called(body: list[ast.stmt]) -> set[str]:
    functions = (
        item.func for node in body for item in ast.walk(node) if isinstance(item, ast.Call)
    )
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in functions
        if isinstance(node, ast.Name | ast.Attribute)
    }


def _as_trial(case: _Case, module: Path, function: str, owner: str) -> Trial | None:
    """The test with the module's names made plain; None where it is not about this function."""
    names: dict[str, str] = {}
    bases: set[str] = set()
    before = []
    for item in case.imports:
        if item.name and _is_module((*item.module, item.name), module, exactly=True):
            bases.add(item.bound)
        elif item.name and _is_module(item.module, module):
            names[item.bound] = item.name
        elif not item.name and _is_module(item.module, module):
            bases.add(item.bound if item.bound != item.module[0] else ".".join(item.module))
        elif item.name != "*" and item.module and item.module[0] in sys.stdlib_module_names:
            before.append(item.statement)
        elif item.name != "*":
            return None
    if not names and not bases:
        return None
    plain = _Plain(names, bases)
    body = plain.statements(case.body)
    if not _is_about(body, function, owner):
        return None
    needed = [ast.unparse(node) for text in case.before for node in plain.statements(text)]
    return Trial(
        "asserts" if case.straight else "check",
        tuple(ast.unparse(node) for node in body),
        (*before, *needed),
        case.where,
    )


def _is_module(named: Path, module: Path, *, exactly: bool = False) -> bool:
    """Whether an import names this module or, if not ``exactly``, a package around it.

    Of a code base that begins inside a package only the end of the name is seen.
    """
    shorter = min(len(named), len(module))
    if named and named[-shorter:] == module[-shorter:]:
        return shorter == len(named) or shorter > 1
    places = range(len(module) - len(named)) if named and not exactly else ()
    return any(module[place : place + len(named)] == named for place in places)


def _is_about(body: list[ast.stmt], function: str, owner: str) -> bool:
    nodes = [item for node in body for item in ast.walk(node)]
    if not owner:
        return any(
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == function
            for node in nodes
        )
    names_owner = any(isinstance(node, ast.Name) and node.id == owner for node in nodes)
    return names_owner and any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == function
        for node in nodes
    )


class _Plain(ast.NodeTransformer):
    """Names of the module as the answer has them: ``module.name`` and aliases become ``name``."""

    def __init__(self, names: dict[str, str], bases: set[str]) -> None:
        self._names = names
        self._bases = bases

    def statements(self, text: str) -> list[ast.stmt]:
        """A text's statements, rewritten."""
        tree = parse(text)
        if isinstance(tree, str):
            return []
        rewritten = (self.visit(node) for node in tree.body)
        return [ast.fix_missing_locations(node) for node in rewritten if node is not None]

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """An imported name as the module calls it."""
        return ast.Name(self._names.get(node.id, node.id), node.ctx)

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        """``mean = module.mean`` says nothing once it is ``mean = mean``."""
        self.generic_visit(node)
        target, value = node.targets[0], node.value
        same = isinstance(target, ast.Name) and isinstance(value, ast.Name)
        return None if same and ast.unparse(target) == ast.unparse(value) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """``module.name`` as ``name``."""
        if ast.unparse(node.value) in self._bases:
            return ast.Name(node.attr, node.ctx)
        self.generic_visit(node)
        return node
