"""Near-duplicate texts by MinHash (Broder 1997) with banding, every pair verified.

A text is the set of its shingles (runs of ``size`` words).  256 hash functions give it a
signature; texts that agree on a whole band of it are candidates, and a candidate counts only
if the Jaccard similarity of the two sets themselves reaches the threshold.  All of it is
vectorised, and does not depend on Python's hash seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

N_PERMUTATIONS = 256
# 42 bands of 6 find a pair of similarity 0.7 with probability 0.995, one of 0.4 with 0.16.
_FOUND_AT_THRESHOLD = 0.99
_CHUNK = 1 << 17
# In a bucket of strangers, each text meets this many earlier ones; other bands bring others.
_MAX_COMPARED = 40
_SEED = 20_000_003

Array = np.ndarray[Any, Any]


class Shingles:
    """The shingle sets of many texts.

    Args:
        texts: the words of each text.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        vocabulary: dict[str, int] = {}
        flat = [vocabulary.setdefault(word, len(vocabulary)) for text in texts for word in text]
        random = np.random.default_rng(_SEED)
        codes = random.integers(0, 2**64, size=len(vocabulary) + 1, dtype=np.uint64)
        self._words = codes[np.asarray(flat, dtype=np.int64)]
        self.lengths = np.asarray([len(text) for text in texts], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._factors = random.integers(0, 2**63, size=16, dtype=np.uint64) * np.uint64(2) + 1
        self._sets: dict[tuple[int, int], Array] = {}

    def of(self, text: int, size: int) -> Array:
        """The hashes of one text's shingles, sorted, each once."""
        key = (text, size)
        if key not in self._sets:
            self._sets[key] = np.unique(self._hashes(text, size))
        return self._sets[key]

    def jaccard(self, first: int, second: int, size: int) -> float:
        """Jaccard similarity of two texts; 0 if one has no shingle of this size."""
        one, two = self.of(first, size), self.of(second, size)
        if not len(one) or not len(two):
            return 0.0
        shared = len(np.intersect1d(one, two, assume_unique=True))
        return shared / (len(one) + len(two) - shared)

    def candidates(
        self, chosen: Array, size: int, threshold: float = 0.7
    ) -> Iterator[tuple[int, int]]:
        """Pairs of the chosen texts that may be similar, each perhaps more than once.

        Args:
            threshold: the similarity at which a pair is found with probability 0.99 or more.
        """
        chosen = chosen[self.lengths[chosen] >= size]
        if len(chosen) < 2:
            return
        signatures = self._signatures(chosen, size)
        random = np.random.default_rng(_SEED + size)
        n_rows = rows_per_band(threshold)
        for band in range(N_PERMUTATIONS // n_rows):
            columns = signatures[:, band * n_rows : (band + 1) * n_rows]
            weights = random.integers(0, 2**63, size=n_rows, dtype=np.uint64)
            keys = (columns.astype(np.uint64) * (weights * np.uint64(2) + 1)).sum(
                axis=1, dtype=np.uint64
            )
            for bucket in _buckets(keys):
                members = chosen[bucket]
                for place in range(1, len(members)):
                    for other in range(max(0, place - _MAX_COMPARED), place):
                        yield int(members[other]), int(members[place])

    def _hashes(self, text: int, size: int) -> Array:
        words = self._words[self._starts[text] : self._starts[text + 1]]
        count = len(words) - size + 1
        if count <= 0:
            return np.empty(0, dtype=np.uint64)
        total = np.zeros(count, dtype=np.uint64)
        for place in range(size):
            total += words[place : place + count] * self._factors[place]
        return _mixed(total)

    def _signatures(self, chosen: Array, size: int) -> Array:
        """(texts, permutations) minima; chunked so that a chunk stays in the cache."""
        random = np.random.default_rng(_SEED)
        factors = random.integers(0, 2**63, size=N_PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + 1
        offsets = random.integers(0, 2**64, size=N_PERMUTATIONS, dtype=np.uint64)
        result = np.empty((len(chosen), N_PERMUTATIONS), dtype=np.uint32)
        first = 0
        while first < len(chosen):
            hashes, n_hashes, last = [], 0, first
            while last < len(chosen) and n_hashes < _CHUNK:
                hashes.append(self._hashes(int(chosen[last]), size))
                n_hashes += len(hashes[-1])
                last += 1
            starts = np.concatenate([[0], np.cumsum([len(item) for item in hashes])[:-1]])
            flat = np.concatenate(hashes)
            for number in range(N_PERMUTATIONS):
                permuted = ((flat * factors[number] + offsets[number]) >> np.uint64(32)).astype(
                    np.uint32
                )
                result[first:last, number] = np.minimum.reduceat(permuted, starts)
            first = last
        return result


def rows_per_band(threshold: float) -> int:
    """The widest bands that miss at most one in a hundred pairs at the threshold."""
    return max(
        n_rows
        for n_rows in range(1, 17)
        if n_rows == 1
        or 1 - (1 - threshold**n_rows) ** (N_PERMUTATIONS // n_rows) >= _FOUND_AT_THRESHOLD
    )


def _buckets(keys: Array) -> Iterator[Array]:
    """Positions of each value that occurs more than once."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ends = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]])) + 1
    starts = np.concatenate([[0], ends[:-1]])
    for group in np.flatnonzero(ends - starts > 1):
        yield order[starts[group] : ends[group]]


def _mixed(values: Array) -> Array:
    """Spread every bit over all others (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Array = values ^ (values >> np.uint64(31))
    return result
