"""A lexer for text that is meant to be Python, whether it parses or not.

It gives the tokens of the standard ``tokenize`` on every program that parses, the same on
every version of Python, and never fails on anything else.  What is decided here:

- NEWLINE, INDENT and DEDENT are symbols of their own; line breaks inside brackets and blank
  lines are nothing.
- A comment is one token.
- A string is one token with its prefix, f-strings and t-strings included, also where they
  nest the same quotes (Python 3.12).
- An opening quote that is never closed is a token by itself; lexing goes on after it.
- A line dedented to a level that was never opened is DEDENTs followed by an INDENT.
- Any other character that Python does not know is a token by itself.

Time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from veritune.score.strings import OPENING_QUOTE, StringEnds

LEXER_NAME = "veritune-python-v1"
NEWLINE, INDENT, DEDENT = "<NEWLINE>", "<INDENT>", "<DEDENT>"

_TAB = 8
_NUMBER = (
    r"0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+"
    r"|(?:[0-9](?:_?[0-9])*\.(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*)"
    r"(?:[eE][-+]?[0-9](?:_?[0-9])*)?[jJ]?"
    r"|[0-9](?:_?[0-9])*[eE][-+]?[0-9](?:_?[0-9])*[jJ]?"
    r"|[0-9](?:_?[0-9])*[jJ]?"
)
_TOKEN = re.compile(
    rf"(?P<quote>{OPENING_QUOTE})"
    rf"|(?P<number>{_NUMBER})"
    r"|(?P<name>\w+)"
    r"|(?P<comment>\#[^\n]*)"
    r"|(?P<joined>\\\n)"
    r"|(?P<operator>\*\*=|//=|>>=|<<=|\.\.\.|[-+*/%&|^@=!<>:]=|->|\*\*|//|>>|<<)"
    r"|(?P<opening>[(\[{])|(?P<closing>[)\]}])"
    r"|(?P<newline>\n)"
    r"|(?P<space>[ \t\f]+)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_BLANK = re.compile(r"[ \t\f]*(?:\n|\Z)")
_WORD = re.compile(r"\w+")
_ESCAPED = re.compile(r"[\s\\]")


def lex(text: str) -> list[str]:
    """The tokens of ``text``: source fragments and the symbols NEWLINE, INDENT and DEDENT.

    No fragment equals a symbol: none that starts with ``<`` is longer than ``<<=``.
    """
    return list(_tokens(text.replace("\r\n", "\n").replace("\r", "\n")))


def bleu_tokens(text: str) -> str:
    """The tokens of ``text`` joined by single spaces, white space inside tokens escaped.

    A white-space character becomes ``\\x`` and its hexadecimal code point and ``;``, a backslash
    two: distinct tokens stay distinct, and splitting at white space gives back the tokens.
    """
    return " ".join(_ESCAPED.sub(_escape, token) for token in lex(text))


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return "\\\\" if character == "\\" else f"\\x{ord(character):x};"


def _tokens(text: str) -> Iterator[str]:
    strings = StringEnds(text)
    position, depth = (1 if text.startswith("\ufeff") else 0), 0
    levels, at_line_start, line_has_code = [0], True, False
    while position < len(text):
        if at_line_start:
            if blank := _BLANK.match(text, position):
                position = max(blank.end(), position + 1)
                continue
            column, position = _indentation(text, position)
            at_line_start = False
            if text[position] != "#":
                yield from _change_level(levels, column)
        match = _TOKEN.match(text, position)
        assert match is not None, "the last alternative matches any character"
        kind, token, position = match.lastgroup, match.group(), match.end()
        if kind in ("space", "joined"):
            continue
        if kind == "newline":
            if not depth:
                at_line_start = True
                if line_has_code:
                    yield NEWLINE
                    line_has_code = False
            continue
        end = position
        if kind == "quote":
            end = strings.end(match["prefix"], match["mark"], position)
        elif kind == "name":
            end = _name_end(text, position)
        token, position = token + text[position:end], end
        depth = max(0, depth + (kind == "opening") - (kind == "closing"))
        line_has_code |= kind != "comment"
        yield token
    if line_has_code:
        yield NEWLINE
    yield from _change_level(levels, 0)


def _name_end(text: str, position: int) -> int:
    """Where a name ends that goes on with letters the pattern does not know, such as marks."""
    while position < len(text) and text[position] > "\x7f" and f"a{text[position]}".isidentifier():
        position += 1
        if word := _WORD.match(text, position):
            position = word.end()
    return position


def _indentation(text: str, position: int) -> tuple[int, int]:
    """Column of a line's first token (tabs to multiples of 8) and where it starts."""
    column = 0
    while position < len(text) and (character := text[position]) in " \t\f":
        if character == " ":
            column += 1
        elif character == "\t":
            column = (column // _TAB + 1) * _TAB
        else:
            column = 0
        position += 1
    return column, position


def _change_level(levels: list[int], column: int) -> Iterator[str]:
    while column < levels[-1]:
        levels.pop()
        yield DEDENT
    if column > levels[-1]:
        levels.append(column)
        yield INDENT
