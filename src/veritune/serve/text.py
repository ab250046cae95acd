"""Tokens become text, piece by piece, as soon as the text can no longer change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Text of a growing row of tokens, special tokens left out.

    A token may hold part of a character, and its text may depend on the token before it; so a
    piece is the difference between two decodings that begin a little earlier.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._before = 0
        self._done = 0

    def add(self, token_id: int) -> str:
        """The text that became certain with one more token."""
        self._ids.append(token_id)
        known, text = self._decode(self._before, self._done), self._decode(self._before)
        if text.endswith(_UNFINISHED) or len(text) <= len(known):
            return ""
        self._before, self._done = self._done, len(self._ids)
        return text[len(known) :]

    def end(self) -> str:
        """What was held back."""
        known, text = self._decode(self._before, self._done), self._decode(self._before)
        self._before = self._done = len(self._ids)
        return text[len(known) :]

    def _decode(self, start: int, stop: int | None = None) -> str:
        return str(
            self._tokenizer.decode(
                self._ids[start:stop],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
        )


class StopAt:
    """Ends a text before the first of some strings, wherever pieces are cut.

    Attributes:
        found: whether one of them was met; everything after it is dropped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def add(self, piece: str) -> str:
        """The text that is certainly before any stop."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back because a stop might have followed."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop`` and is shorter than it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
