"""Looking at Python source without ever running it."""

from __future__ import annotations

import ast

from veritune.data import syntax


def parse(code: str) -> ast.Module | str:
    """Parse a program, or say in one line why and where it cannot be parsed."""
    return syntax.parse(code, with_line=True)


def parse_failure(code: str) -> str | None:
    """The reason why ``code`` is not valid Python, or None if it parses."""
    result = parse(code)
    return result if isinstance(result, str) else None


def is_empty(code: str) -> bool:
    """Whether there is no answer at all: nothing, or white space only."""
    return not code.strip()


def same_tree(first: ast.AST, second: ast.AST) -> bool:
    """Whether two syntax trees are equal, as equality of ``ast.dump``, at any depth.

    ``ast.dump`` itself is recursive and gives up on deep trees.
    """
    pairs: list[tuple[object, object]] = [(first, second)]
    while pairs:
        one, two = pairs.pop()
        if type(one) is not type(two):
            return False
        if isinstance(one, ast.AST):
            pairs.extend(
                (getattr(one, name, None), getattr(two, name, None)) for name in one._fields
            )
        elif isinstance(one, list) and isinstance(two, list):
            if len(one) != len(two):
                return False
            pairs.extend(zip(one, two, strict=True))
        elif repr(one) != repr(two):
            return False
    return True
