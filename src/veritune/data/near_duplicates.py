"""Near-duplicate texts by MinHash (Broder 1997) with banding, every pair verified.

A text is the set of its shingles (runs of ``size`` words).  256 hash functions give it a
signature; texts that agree on a whole band of it are candidates, and a candidate counts only
if the Jaccard similarity of the two sets themselves reaches the threshold.  All of it is
vectorised, and does not depend on Python's hash seed.  Signatures are never kept: a band's
keys are made from the sets when the band's turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from veritune.data.shingle_sets import ShingleSets, common_counts, ranges, sets_of
from veritune.data.word_codes import code_of

N_PERMUTATIONS = 256
# 42 bands of 6 find a pair of similarity 0.7 with probability 0.995, one of 0.4 with 0.16.
_FOUND_AT_THRESHOLD = 0.99
_CHUNK = 1 << 15
# In a bucket of strangers, each text meets this many earlier ones; other bands bring others.
_MAX_COMPARED = 40
_SEED = 20_000_003

Array = np.ndarray[Any, Any]


class Shingles:
    """The shingle sets of many texts.

    Args:
        texts: the words of each text.
    """

    def __init__(self, texts: Sequence[Sequence[str]] = ()) -> None:
        flat = [code_of(word) for text in texts for word in text]
        lengths = np.asarray([len(text) for text in texts], dtype=np.int64)
        self._set(np.asarray(flat, dtype=np.uint64), lengths)

    @classmethod
    def of_codes(cls, words: Array, lengths: Array) -> Shingles:
        """From the words' codes, text after text, and each text's number of words."""
        result = cls()
        result._set(words, lengths)
        return result

    def _set(self, words: Array, lengths: Array) -> None:
        self._words, self.lengths = words, lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._sets: dict[int, ShingleSets] = {}

    def at(self, places: Array) -> Shingles:
        """The texts at some places, in that order."""
        words = self._words[ranges(self._starts[places], self.lengths[places])]
        return Shingles.of_codes(words, self.lengths[places])

    def sets(self, size: int) -> ShingleSets:
        """The sets of all texts' shingles of one size."""
        if size not in self._sets:
            self._sets[size] = sets_of(self._words, self._starts, size)
        return self._sets[size]

    def of(self, text: int, size: int) -> Array:
        """The hashes of one text's shingles, sorted, each once."""
        return self.sets(size).of(text)

    def jaccard(self, first: int, second: int, size: int) -> float:
        """Jaccard similarity of two texts; 0 if one has no shingle of this size."""
        return float(self.jaccards(np.asarray([first]), np.asarray([second]), size)[0])

    def jaccards(self, first: Array, second: Array, size: int) -> Array:
        """Jaccard similarity of each text of ``first`` to the one of ``second`` beside it."""
        sets = self.sets(size)
        shared = common_counts(sets, first, second)
        union = sets.sizes[first] + sets.sizes[second] - shared
        result: Array = shared / np.maximum(1, union)
        return result

    def candidates(
        self, chosen: Array, size: int, threshold: float = 0.7
    ) -> Iterator[tuple[int, int]]:
        """Pairs of the chosen texts that may be similar, each perhaps more than once.

        Args:
            threshold: the similarity at which a pair is found with probability 0.99 or more.
        """
        for pairs in self.candidate_pairs(chosen, size, threshold):
            yield from zip(*pairs.tolist(), strict=True)

    def candidate_pairs(
        self,
        chosen: Array,
        size: int,
        threshold: float = 0.7,
        threads: int = 1,
        most_bands: int | None = None,
    ) -> Iterator[Array]:
        """The same as arrays (2, pairs) of places, in an order that depends on the texts alone.

        Args:
            most_bands: look at no more bands; faster, and more pairs are missed.
        """
        chosen = chosen[self.lengths[chosen] >= size]
        if len(chosen) < 2:
            return
        sets = self.sets(size)
        bands = _bands(threshold, size)[:most_bands]
        with ThreadPoolExecutor(threads) as pool:
            ahead = [pool.submit(_band_keys, sets, chosen, band) for band in bands[:threads]]
            for number in range(len(bands)):
                keys = ahead.pop(0).result()
                if number + threads < len(bands):
                    ahead.append(pool.submit(_band_keys, sets, chosen, bands[number + threads]))
                for pairs in _pairs_in_buckets(keys):
                    yield chosen[pairs]


def rows_per_band(threshold: float) -> int:
    """The widest bands that miss at most one in a hundred pairs at the threshold."""
    return max(
        n_rows
        for n_rows in range(1, 17)
        if n_rows == 1
        or 1 - (1 - threshold**n_rows) ** (N_PERMUTATIONS // n_rows) >= _FOUND_AT_THRESHOLD
    )


def _bands(threshold: float, size: int) -> list[tuple[Array, Array, Array]]:
    """(factors, offsets, weights) of each band's hash functions."""
    random = np.random.default_rng(_SEED)
    factors = random.integers(0, 2**63, size=N_PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + 1
    offsets = random.integers(0, 2**64, size=N_PERMUTATIONS, dtype=np.uint64)
    random = np.random.default_rng(_SEED + size)
    n_rows = rows_per_band(threshold)
    bands = []
    for band in range(N_PERMUTATIONS // n_rows):
        rows = slice(band * n_rows, (band + 1) * n_rows)
        weights = random.integers(0, 2**63, size=n_rows, dtype=np.uint64) * np.uint64(2) + 1
        bands.append((factors[rows], offsets[rows], weights))
    return bands


def _band_keys(sets: ShingleSets, chosen: Array, band: tuple[Array, Array, Array]) -> Array:
    """One number for each text, equal where all minima of the band are."""
    keys = np.zeros(len(chosen), dtype=np.uint64)
    for first, last, flat, starts in sets.chunks(chosen, _CHUNK):
        permuted = np.empty_like(flat)
        for factor, offset, weight in zip(*band, strict=True):
            np.multiply(flat, factor, out=permuted)
            np.add(permuted, offset, out=permuted)
            keys[first:last] += np.minimum.reduceat(permuted, starts) * weight
    return keys


def _pairs_in_buckets(keys: Array) -> Iterator[Array]:
    """Pairs (2, pairs) of places with equal keys, nearest in their bucket first."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_start = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(is_start)
    rank = np.arange(len(keys)) - np.repeat(starts, np.diff([*starts, len(keys)]))
    later = np.flatnonzero(rank)
    for distance in range(1, _MAX_COMPARED + 1):
        later = later[rank[later] >= distance]
        if not len(later):
            return
        yield np.stack([order[later - distance], order[later]])
