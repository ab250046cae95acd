"""A 64-bit number for every word: the same in every process and on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_MAX_KEPT = 1 << 20


class _Codes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        if len(self) >= _MAX_KEPT:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        code = self[word] = int.from_bytes(digest, "little")
        return code


_CODES = _Codes()


def code_of(word: str) -> int:
    """The number of one word."""
    return _CODES[word]


def codes_of(words: Sequence[str]) -> np.ndarray[Any, Any]:
    """The numbers of some words, uint64."""
    return np.fromiter(map(_CODES.__getitem__, words), dtype=np.uint64, count=len(words))
