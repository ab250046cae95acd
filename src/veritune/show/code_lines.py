"""Colours for an answer that is still being written, one finished line at a time."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

_PROSE = re.compile(r"\s*[A-Z][\w']*(?:[ ,]+[\w'`,.:-]+){3,}")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([\w+-]*)\s*")
_PYTHON = frozenset({"", "py", "python", "python3"})


def coloured_last(lines: Sequence[str]) -> str:
    """The last of an answer's lines with ANSI colours, if it is Python; else as it is.

    Code is what stands in a Python fence; and, as long as there is no fence, an answer whose
    first line does not read like a sentence.

    Args:
        lines: from the beginning, without control characters.
    """
    block = _code_block(lines)
    return lines[-1] if block is None else _highlight(block).split("\n")[len(block) - 1]


def _code_block(lines: Sequence[str]) -> list[str] | None:
    """The lines of the program that the last line belongs to, or None."""
    fence, is_python, block = "", True, list[str]()
    seen_fence = False
    for line in lines:
        found = _FENCE.fullmatch(line)
        if found and not fence:
            fence, is_python = found[1], found[2].lower() in _PYTHON
            block, seen_fence = [], True
        elif found and found[1].startswith(fence):
            fence, block = "", []
        else:
            block.append(line)
    last_is_fence = bool(lines) and _FENCE.fullmatch(lines[-1]) is not None
    if last_is_fence or not block:
        return None
    if fence:
        return block if is_python else None
    first = next((line for line in block if line.strip()), "")
    return None if seen_fence or _PROSE.match(first) else block


def _highlight(block: Sequence[str]) -> str:
    lexer, formatter = _tools()
    from pygments import highlight

    return str(highlight("\n".join(block), lexer, formatter))


@functools.cache
def _tools() -> tuple[Any, Any]:
    from pygments.formatters.terminal import TerminalFormatter
    from pygments.lexers.python import PythonLexer

    # The terminal's own sixteen colours, so that its theme holds.
    return PythonLexer(stripnl=False, ensurenl=False), TerminalFormatter()
