"""Looking at Python source without ever running it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings

_FAULTS_OF_PARSER = (ValueError, RecursionError, MemoryError, OverflowError)
_PLACE = re.compile(r" \(detected at line \d+\)| on line \d+")
_F_STRING_START = getattr(tokenize, "FSTRING_START", None)
_F_STRING_END = getattr(tokenize, "FSTRING_END", None)


def parse(code: str, *, with_line: bool = False) -> ast.Module | str:
    """Parse a program, or say in one line why it is not valid Python.

    Hostile text is expected: NUL, lone surrogates, nesting beyond the parser's depth.

    Args:
        with_line: name the line of the fault; without it equal reasons can be counted.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except SyntaxError as error:
        if not with_line:
            return f"{type(error).__name__}: {_PLACE.sub('', error.msg)}"[:200]
        where = "" if error.lineno is None else f" (line {error.lineno})"
        return f"{type(error).__name__}: {error.msg}{where}".partition("\n")[0][:200]
    except _FAULTS_OF_PARSER as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def parse_failure(code: str) -> str | None:
    """The reason why ``code`` is not valid Python, or None if it parses."""
    result = parse(code)
    return result if isinstance(result, str) else None


def dump(tree: ast.AST) -> str | None:
    """``ast.dump`` of a tree, or None where the tree is too deep or a number too long for it."""
    try:
        return ast.dump(tree)
    except _FAULTS_OF_PARSER:
        return None


def tokens(code: str) -> list[tokenize.TokenInfo] | None:
    """The tokens of ``code``, which may be no program; None if they cannot be told apart."""
    try:
        found = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (SyntaxError, tokenize.TokenError, *_FAULTS_OF_PARSER):
        return None
    if any(token.type == tokenize.ERRORTOKEN for token in found):
        return None
    return found


def string_spans(found: list[tokenize.TokenInfo]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(start, end) of each string, f-strings whole, as (row from 1, column) pairs."""
    spans = []
    opened: list[tuple[int, int]] = []
    for token in found:
        if token.type == tokenize.STRING and not opened:
            spans.append((token.start, token.end))
        elif _F_STRING_START is not None and token.type == _F_STRING_START:
            opened.append(token.start)
        elif _F_STRING_END is not None and token.type == _F_STRING_END:
            start = opened.pop()
            if not opened:
                spans.append((start, token.end))
    return spans


def lines_ending_in_string(found: list[tokenize.TokenInfo]) -> set[int]:
    """Rows (from 1) whose line end lies inside a string that goes on below."""
    return {row for start, end in string_spans(found) for row in range(start[0], end[0])}
