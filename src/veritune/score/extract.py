"""Finding the program in a generated text.

Fences follow CommonMark: three or more backticks or tildes; the closing line repeats the
character at least as often and says nothing else.  Two readings are wider than CommonMark,
because models write that way: a fence may be indented by any amount (a list item), and a
sentence may stand before an opening fence that names its language (``Sure: ```python``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

PYTHON_TAGS = frozenset({"python", "py", "python3"})

_OPENING = re.compile(
    r"(?P<indent>[ \t]*)(?:(?P<ticks>`{3,})(?P<info>[^`]*)|(?P<tildes>~{3,})(?P<words>.*))"
)
_OPENING_AFTER_TEXT = re.compile(r"(?P<ticks>`{3,})(?P<info>[A-Za-z][\w+#.-]*)\s*")


class _Fence(NamedTuple):
    language: str
    body: str
    closed: bool


def extract_code(raw: str) -> str:
    """Take the program out of ``raw``: a choice of text, never a repair of it.

    The first closed Python fence; else the first closed fence of any language; else the
    body of an unclosed fence; else the text as it is.  Lines in an indented fence lose the
    fence's own indentation, as a Markdown reader would show them.
    """
    fences = list(_fences(raw))
    closed = [fence for fence in fences if fence.closed]
    python = [fence for fence in closed if fence.language in PYTHON_TAGS]
    for fence in (*python[:1], *closed[:1], *fences[:1]):
        return fence.body
    return raw


def _fences(raw: str) -> Iterator[_Fence]:
    mark, language, indent = "", "", ""
    body: list[str] = []
    for line in raw.split("\n"):
        if not mark:
            opening = _OPENING.fullmatch(line) or _OPENING_AFTER_TEXT.fullmatch(
                line, line.find("`") if "`" in line else len(line)
            )
            if opening is None:
                continue
            found = opening.groupdict()
            mark = found["ticks"] or found["tildes"]
            words = (found["info"] if found["ticks"] else found["words"]).split()
            language = words[0].lower() if words else ""
            indent, body = found.get("indent", ""), []
        elif _closes(line, mark):
            yield _Fence(language, "\n".join(body), closed=True)
            mark = ""
        else:
            body.append(_without_indent(line, indent))
    if mark:
        yield _Fence(language, "\n".join(body), closed=False)


def _closes(line: str, mark: str) -> bool:
    text = line.strip()
    return len(text) >= len(mark) and set(text) == {mark[0]}


def _without_indent(line: str, indent: str) -> str:
    kept = len(indent)
    while kept and not line[:kept].isspace():
        kept -= 1
    return line[kept:]
