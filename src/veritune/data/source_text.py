"""Changes to the text of Python code that leave the program as it is."""

from __future__ import annotations

import re
import tokenize

from veritune.data.syntax import dump, lines_ending_in_string, parse, string_spans, tokens

_BLANKS = " \t\f"
_LINE_END = re.compile(r"\r\n?")
_LEADING_BLANK_LINES = re.compile(r"\A(?:[ \t\f]*\n)+")
# Without the look behind, each blank of a long run would be tried as its start.
_TRAILING_BLANKS = re.compile(r"(?<![ \t\f])[ \t\f]++$", re.MULTILINE)


def remove_comments(code: str) -> str:
    """Code without its comments; lines that held nothing else go.

    Code that does not parse, or that would not parse to the same program, is left unchanged.
    """
    if "#" not in code:
        return code
    text = _LINE_END.sub("\n", code)
    tree, found = parse(text), tokens(text)
    if isinstance(tree, str) or found is None:
        return code
    strings = string_spans(found)
    lines: list[str | None] = list(text.split("\n"))
    for token in found:
        if token.type == tokenize.COMMENT and not _inside(token.start, strings):
            row, column = token.start
            lines[row - 1] = (lines[row - 1] or "")[:column].rstrip(_BLANKS) or None
    result = "\n".join(line for line in lines if line is not None)
    after = parse(result)
    if isinstance(after, str) or dump(after) is None or dump(after) != dump(tree):
        return code
    return result


def normalise_code(code: str) -> str:
    """Line ends ``\\n``, no trailing blanks, no outer blank lines; string contents untouched.

    In code that cannot be tokenized, strings cannot be told apart: its trailing blanks stay.
    """
    text = _LINE_END.sub("\n", code)
    if _TRAILING_BLANKS.search(text) and (found := tokens(text)) is not None:
        inside = lines_ending_in_string(found)
        stripped = "\n".join(
            line if row in inside else line.rstrip(_BLANKS)
            for row, line in enumerate(text.split("\n"), start=1)
        )
        # The blanks may be all that a continuation at the very end goes on to.
        text = text if stripped.endswith("\\\n") else stripped
    return _without_outer_blank_lines(text)


def normalise_prose(text: str) -> str:
    """Line ends ``\\n``, no trailing blanks, no outer blank lines."""
    return _without_outer_blank_lines(_TRAILING_BLANKS.sub("", _LINE_END.sub("\n", text)))


def _without_outer_blank_lines(text: str) -> str:
    kept = text.rstrip(f"{_BLANKS}\n")
    if kept.endswith("\\"):  # an empty line may be what a continuation goes on to
        return text
    return _LEADING_BLANK_LINES.sub("", kept)


def _inside(
    position: tuple[int, int], spans: list[tuple[tuple[int, int], tuple[int, int]]]
) -> bool:
    return any(start <= position < end for start, end in spans)
