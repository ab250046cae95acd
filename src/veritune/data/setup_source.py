"""What a mined function's tests need besides the function: the rest of its module.

The tests of an answer are worth something only if they meet the answer.  The order is:
answer, setup, tests; so the setup must not define the function again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef


def setup_of(
    tree: ast.Module, lines: list[str], function: Function, owner: ast.ClassDef | None
) -> str | None:
    """The module's source without ``function`` and without its ``__main__`` part.

    For a method the class is kept without it, and the answer is put in its place afterwards.
    None where the module binds the function's name again (a second definition, an import of
    a faster twin): its tests would then pass whatever the answer says.
    """
    bound = Counted(tree).count(function.name) if owner is None else 1
    if owner is not None:
        bound = sum(getattr(item, "name", None) == function.name for item in owner.body)
        if Counted(tree).count(owner.name) != 1:
            return None
    if bound != 1:
        return None
    blanked = list(lines)
    _blank(blanked, function, keep_statement=owner is not None)
    for node in tree.body:
        if _is_main_part(node):
            _blank(blanked, node, keep_statement=False)
    text = "\n".join(blanked).strip("\n")
    if owner is not None:
        text += f"\n\n{owner.name}.{function.name} = {function.name}"
    return f"{text}\n"


class Counted:
    """How often a module binds each name at its top level, ``if`` and ``try`` included."""

    def __init__(self, tree: ast.Module) -> None:
        self._names = list(_bound_names(tree.body))

    def count(self, name: str) -> int:
        """Bindings of ``name``; a star import might bind it, so counts as one more."""
        return self._names.count(name) + self._names.count("*")


def _bound_names(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        for node in ast.iter_child_nodes(statement):
            if isinstance(node, ast.alias):
                yield node.asname or node.name.partition(".")[0]
            elif isinstance(node, ast.stmt):
                yield from _bound_names([node])
            elif isinstance(node, ast.ExceptHandler):
                yield from _bound_names(node.body)
            else:
                yield from (
                    item.id
                    for item in ast.walk(node)
                    if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load)
                )


def _blank(lines: list[str], node: ast.stmt, *, keep_statement: bool) -> None:
    """Empty a node's lines, so that all others keep their numbers."""
    assert node.end_lineno
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(item.lineno for item in decorators)])
    first = lines[start - 1]
    for number in range(start - 1, node.end_lineno):
        lines[number] = ""
    if keep_statement:
        lines[start - 1] = f"{first[: len(first) - len(first.lstrip())]}pass"


def _is_main_part(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(item, ast.Name) and item.id == "__name__" for item in ast.walk(node.test)
    )
