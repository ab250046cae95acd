"""Python source as HTML with a handful of classes; the colours live in the style sheet.

Pygments finds the tokens.  Its own formatter writes one element per token and eighty classes;
merging neighbours into nine kinds makes pages of a thousand answers a third the size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from markupsafe import Markup, escape
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, Token, _TokenType

from veritune.report.wording import visible

LONGEST_SHOWN = 4000
"""Characters of one text that a page shows; the rest is in the run's own files."""

_CLASSES: dict[_TokenType, str] = {
    Comment: "c",
    Keyword: "k",
    Keyword.Constant: "n",
    Name.Builtin: "b",
    Name.Class: "f",
    Name.Decorator: "d",
    Name.Exception: "b",
    Name.Function: "f",
    Number: "n",
    Operator.Word: "k",
    String: "s",
    String.Doc: "c",
    String.Interpol: "i",
}


@dataclass
class Highlighter:
    """Highlights until its budget is used up; after that text is only escaped.

    Attributes:
        budget: characters left to highlight; pygments manages about 400 in a millisecond.
    """

    budget: int = 200_000
    is_used_up: bool = False

    def __call__(self, code: str) -> Markup:
        """The code, escaped, at most ``LONGEST_SHOWN`` characters of it."""
        shown = visible(code[:LONGEST_SHOWN])
        if len(shown) > self.budget:
            self.is_used_up = True
            return escape(shown) + _left_out(code)
        self.budget -= len(shown)
        return highlight(shown) + _left_out(code)


def clip(text: str) -> str:
    """Visible text of at most ``LONGEST_SHOWN`` characters, saying what was left out."""
    return visible(text[:LONGEST_SHOWN]) + _left_out(text)


def _left_out(text: str) -> str:
    more = len(text) - LONGEST_SHOWN
    return f"\n… {more:,} more characters" if more > 0 else ""


@functools.lru_cache(maxsize=2048)
def highlight(code: str) -> Markup:
    """Python source, escaped, with ``<span class>`` around what has a colour."""
    parts: list[str] = []
    kind, pending = "", ""
    for token, text in _lexer().get_tokens(code):
        of = _class_of(token)
        if of != kind and text.strip():
            parts.append(_span(kind, pending))
            kind, pending = of, text
        else:
            pending += text
    parts.append(_span(kind, pending))
    return Markup("".join(parts))  # noqa: S704


@functools.cache
def _lexer() -> PythonLexer:
    return PythonLexer(stripnl=False, ensurenl=False)


@functools.cache
def _class_of(token: _TokenType) -> str:
    while token is not Token:
        if token in _CLASSES:
            return _CLASSES[token]
        if token.parent is None:
            break
        token = token.parent
    return ""


def _span(kind: str, text: str) -> str:
    inner = str(escape(text))
    return f'<span class="h{kind}">{inner}</span>' if kind and text else inner
