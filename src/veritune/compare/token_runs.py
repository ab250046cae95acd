"""The longest run of tokens that an answer shares with any of many texts, exactly.

If a run of n tokens is shared then so is one of n - 1, so the longest is found by halving;
for each length all windows of the texts are known by a rolling hash, and a hit is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_BASE = np.uint64(0x9E3779B97F4A7C15)
_KEPT_LENGTHS = 24


class TokenRuns:
    """Texts that answers are held against.

    Args:
        texts: tokens of each text.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._numbers: dict[str, int] = {}
        rows = [
            [self._numbers.setdefault(token, len(self._numbers) + 1) for token in text]
            for text in texts
        ]
        self._ids = np.array([number for row in rows for number in row], dtype=np.int64)
        self._row = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        self._sums = _prefix(self._ids)
        self._windows = lru_cache(_KEPT_LENGTHS)(self._sorted_windows)

    def longest(self, answer: Sequence[str]) -> tuple[int, int | None]:
        """Length of the longest shared run, and the index of a text that holds it."""
        ids = np.array([self._numbers.get(token, 0) for token in answer], dtype=np.int64)
        # Tokens that no text has end every run; they never hash alike to anything there.
        ids[ids == 0] = -1 - np.arange(int((ids == 0).sum()))
        sums = _prefix(ids)
        low, high, found = 0, len(ids), None
        while low < high:
            middle = (low + high + 1) // 2
            text = self._shared(ids, sums, middle)
            if text is None:
                high = middle - 1
            else:
                low, found = middle, text
        return low, found

    def _shared(self, ids: Ids, sums: Hashes, length: int) -> int | None:
        hashes, places = self._windows(length)
        if not len(hashes):
            return None
        wanted = _hashes(sums, length)
        at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        for start in np.flatnonzero(hashes[at] == wanted):
            place = int(places[at[start]])
            if np.array_equal(ids[start : start + length], self._ids[place : place + length]):
                return int(self._row[place])
        return None

    def _sorted_windows(self, length: int) -> tuple[Hashes, Ids]:
        """Hashes of all windows inside one text, rising, and where they begin."""
        if length > len(self._ids):
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        places = np.flatnonzero(self._row[: len(self._ids) - length + 1] == self._row[length - 1 :])
        hashes = _hashes(self._sums, length)[places]
        order = np.argsort(hashes, kind="stable")
        return hashes[order], places[order]


def _prefix(ids: Ids) -> Hashes:
    """Polynomial hashes of all beginnings, modulo 2**64."""
    sums = np.zeros(len(ids) + 1, dtype=np.uint64)
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    powers = _powers(len(ids))
    # Sums of token × base**position; windows are compared after shifting to one position.
    np.cumsum(mixed * powers, out=sums[1:])
    return sums


def _hashes(sums: Hashes, length: int) -> Hashes:
    count = len(sums) - length
    if count <= 0:
        return np.empty(0, np.uint64)
    # Base is odd, so it has an inverse modulo 2**64.
    return (sums[length:] - sums[:count]) * _powers(count, inverse=True)


@lru_cache(4)
def _powers(count: int, *, inverse: bool = False) -> Hashes:
    base = np.uint64(pow(int(_BASE), -1, 2**64)) if inverse else _BASE
    powers = np.ones(max(count, 1), dtype=np.uint64)
    powers[1:] = base
    return np.asarray(np.multiply.accumulate(powers)[:count], dtype=np.uint64)
