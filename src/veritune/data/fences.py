"""Taking an answer's code out of Markdown fences.

Lines are read as CommonMark reads them: a fence opens with three or more backticks or
tildes and closes with a line of at least as many that says nothing else.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from veritune.data.syntax import parse_failure

_OPENING = re.compile(r"([ \t]*)(?:(`{3,})([^`]*)|(~{3,})(.*))")
_ONE_LINE = re.compile(r"[ \t]*(`{3,}+)(?:(?:python3?|py)[ \t])?([^`\n]*)\1[ \t]*", re.IGNORECASE)
_PYTHON_TAGS = frozenset({"python", "py", "python3"})
_LANGUAGE_LINE = re.compile(
    r"\s*(?:python3?|py)[ \t]*+(?::[ \t]*+)?\r?\n(?=.*\S)", re.IGNORECASE | re.DOTALL
)


class _Block(NamedTuple):
    language: str
    body: str
    is_closed: bool


def unfence(answer: str) -> str:
    """The code of an answer's fences; the answer itself where it has none.

    All closed Python blocks, joined by an empty line, are the program; else all closed blocks;
    else the body of a fence that never closes.  Nothing changes where these hold nothing (a
    closing fence that was never opened), nor in an answer that is valid Python as it stands:
    its fences are inside strings.
    """
    if "```" not in answer and "~~~" not in answer:
        return answer
    if parse_failure(answer) is None:
        return answer
    if one_line := _ONE_LINE.fullmatch(answer.strip("\r\n")):
        return one_line[2].strip()
    blocks = _blocks(answer)
    closed = [block for block in blocks if block.is_closed]
    python = [block for block in closed if block.language in _PYTHON_TAGS]
    chosen = python or closed or blocks
    code = "\n\n".join(block.body for block in chosen)
    return code if code.strip() else answer


def drop_language_line(answer: str) -> str:
    """The answer without a first line that only says ``python``, unless that is all of it."""
    found = _LANGUAGE_LINE.match(answer)
    return answer[found.end() :] if found else answer


def _blocks(text: str) -> list[_Block]:
    blocks = []
    mark, language, indent = "", "", ""
    body: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if mark:
            stripped = line.strip()
            if len(stripped) >= len(mark) and set(stripped) == {mark[0]}:
                blocks.append(_Block(language, "\n".join(body), True))
                mark = ""
            else:
                body.append(line.removeprefix(indent))
        elif opening := _OPENING.fullmatch(line):
            indent, mark = opening[1], opening[2] or opening[4]
            words = (opening[3] or opening[5] or "").split()
            language, body = (words[0].lower() if words else ""), []
    if mark:
        blocks.append(_Block(language, "\n".join(body), False))
    return blocks
