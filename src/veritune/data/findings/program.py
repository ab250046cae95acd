"""What one walk over a program's syntax tree tells: its modules, needs and branches."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from veritune.data.findings.needs import needs_of_call, needs_of_modules, reads_stdin

_MAX_NODES = 200_000
_BRANCHES = (ast.If, ast.IfExp, ast.Assert)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_VALUES = (ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.UnaryOp)

CLASS = "a class"
FUNCTION = "one function"
FUNCTIONS = "several functions"
SCRIPT = "a script"
VALUES = "only names and values"


@dataclass(frozen=True, slots=True)
class Program:
    """What is read off a program.

    Attributes:
        modules: top-level names of all imported modules, each once, sorted.
        needs: of the keyboard, the network and files, what it asks for.
        complexity: McCabe's cyclomatic number of the whole program: 1 and one for each branch,
            counted as radon counts within a function (but for
            branches within an ``assert``, which radon does not see).
        shape: what stands at its top level.
        n_finally: ``finally`` blocks.
    """

    modules: tuple[str, ...]
    needs: tuple[str, ...]
    complexity: int
    shape: str
    n_finally: int


def look_into(tree: ast.Module) -> Program:
    """One walk over the tree; of programs with more than 200,000 nodes only these."""
    modules: set[str] = set()
    needs: set[str] = set()
    complexity, n_finally = 1, 0
    for node in _nodes(tree):
        complexity += _branches(node)
        if isinstance(node, ast.Call):
            needs.update(needs_of_call(node))
        elif isinstance(node, ast.Attribute):
            needs.update(reads_stdin(node))
        elif isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Try | ast.TryStar) and node.finalbody:
            n_finally += 1
    needs.update(needs_of_modules(modules))
    return Program(
        tuple(sorted(modules)), tuple(sorted(needs)), complexity, _shape(tree), n_finally
    )


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but names' contexts and operators, which hold nothing.

    Twice as fast as ``ast.walk``, whose generators this loop does without.
    """
    waiting: list[ast.AST] = [tree]
    for _ in range(_MAX_NODES):
        if not waiting:
            return
        node = waiting.pop()
        yield node
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                waiting += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and value._fields:
                waiting.append(value)


def _branches(node: ast.AST) -> int:
    found = 0
    if isinstance(node, _BRANCHES):
        found = 1
    elif isinstance(node, ast.BoolOp):
        found = len(node.values) - 1
    elif isinstance(node, _LOOPS):
        found = 1 + bool(node.orelse)
    elif isinstance(node, ast.Try | ast.TryStar):
        found = len(node.handlers) + bool(node.orelse)
    elif isinstance(node, ast.comprehension):
        found = 1 + len(node.ifs)
    elif isinstance(node, ast.Match):
        catches_all = any(
            isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None
            for case in node.cases
        )
        found = len(node.cases) - catches_all
    return found


def _shape(tree: ast.Module) -> str:
    functions = classes = others = values = 0
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            classes += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions += 1
        elif isinstance(node, ast.Expr) and isinstance(node.value, _VALUES):
            values += 1
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            others += 1
    if others:
        return SCRIPT
    if classes:
        return CLASS
    if functions:
        return FUNCTION if functions == 1 else FUNCTIONS
    return VALUES if values or not tree.body else SCRIPT
