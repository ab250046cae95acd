"""Two texts side by side, with what they do not share marked."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher

from markupsafe import Markup, escape

_PART = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")
_MOST_PARTS = 600
_ALIKE = 0.5


def side_by_side(
    left: str, right: str, written: Callable[[str], str] = str
) -> tuple[Markup, Markup]:
    """Both texts escaped; where they are much alike, what differs is marked.

    Texts of more than 600 words and signs are not compared, since that could take long.

    Args:
        written: what is done to each piece of text before it is escaped.
    """
    ours, theirs = _PART.findall(left), _PART.findall(right)
    if left == right or not all(0 < len(side) <= _MOST_PARTS for side in (ours, theirs)):
        return escape(written(left)), escape(written(right))
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return escape(written(left)), escape(written(right))
    shown = Markup(), Markup()
    for name, low, high, from_, to in matcher.get_opcodes():
        pieces = "".join(ours[low:high]), "".join(theirs[from_:to])
        shown = (
            shown[0] + _piece(written(pieces[0]), name != "equal"),
            shown[1] + _piece(written(pieces[1]), name != "equal"),
        )
    return shown


def _piece(text: str, differs: bool) -> Markup:
    body = text.lstrip()
    if not differs or not body:
        return escape(text)
    return Markup("{}<mark>{}</mark>").format(text[: len(text) - len(body)], body)
