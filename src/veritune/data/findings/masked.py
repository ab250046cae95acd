"""A card's texts without the secrets and personal data that are found in them.

What is found once is hidden everywhere: a password that a question names is a password in the
answer too, where nothing else tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from veritune.data.findings.personal import Span, personal_spans, without_overlaps
from veritune.data.findings.secrets import secret_spans

_PROSE = frozenset(
    {"instruction", "input", "questions", "text", "task_question", "overlap", "said"}
)
_CODE = frozenset({"reference"})
_WORDS = "most_frequent"
_LAST_LINE = 200
_MIN_CHARACTERS_ELSEWHERE = 6


def cut(text: str, limit: int) -> str:
    """The start of a text, torn between lines or words: half an address is still an address."""
    if len(text) <= limit:
        return text
    end = text.rfind("\n", max(1, limit - _LAST_LINE), limit)
    if end < 0:
        end = next((place for place in range(limit, 0, -1) if text[place].isspace()), limit)
    return f"{text[:end].rstrip()} …"


def masked(text: str, spans: Sequence[Span]) -> str:
    """The text with each span, in order and without overlaps, replaced by its kind and length."""
    parts = []
    place = 0
    for span in spans:
        parts += [text[place : span.start], _instead(span.kind, text[span.start : span.end])]
        place = span.end
    return "".join([*parts, text[place:]])


def without_found(card: dict[str, Any], values: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
    """The card with everything hidden that is found in the rows' texts it shows.

    Args:
        values: (kind, value) of what was found in other rows.
    """
    found = {value: kind for kind, value in values}

    def hide(text: str, is_code: bool) -> str:
        spans = without_overlaps([*personal_spans(text), *secret_spans(text, is_code=is_code)])
        found.update({text[span.start : span.end]: span.kind for span in spans})
        return masked(text, spans)

    hidden = _over_texts(card, hide)
    elsewhere = sorted(
        (value for value in found if len(value) >= _MIN_CHARACTERS_ELSEWHERE), key=len, reverse=True
    )
    if not elsewhere:
        return hidden
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, elsewhere))})(?!\w)")

    def hide_again(text: str, is_code: bool) -> str:
        del is_code
        return pattern.sub(lambda match: _instead(found[match[0]], match[0]), text)

    hidden = _over_texts(hidden, hide_again)
    for side in ("source", "target"):
        words = (hidden.get("vocabulary") or {}).get(side)
        if words:
            words[_WORDS] = [pair for pair in words[_WORDS] if pair[0] not in found]
    return hidden


def _instead(kind: str, value: str) -> str:
    return f"[hidden: {kind}, {len(value)} characters]"


def _over_texts(card: dict[str, Any], change: Callable[[str, bool], str]) -> dict[str, Any]:
    """A copy with every text of a row changed."""

    def walk(item: Any, key: str) -> Any:
        if isinstance(item, dict):
            return {name: walk(value, name) for name, value in item.items()}
        if isinstance(item, list):
            return [walk(value, key) for value in item]
        if isinstance(item, str) and (key in _PROSE or key in _CODE):
            return change(item, key in _CODE)
        return item

    return {name: walk(value, name) for name, value in card.items()}
