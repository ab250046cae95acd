"""For each of some texts, the nearest or all near ones among others, by the clusters' rule.

Texts of forty words or more are compared by runs of five, all others by runs of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from veritune.data.compared import LONG_SIZE, LONG_WORDS, SHORT_SIZE
from veritune.data.near_duplicates import Shingles
from veritune.data.similar_pairs import SimilarPairs

Array = np.ndarray[Any, Any]

_CHUNK = 1 << 20


def all_similar(
    shingles: Shingles, train: Array, held_out: Array, threshold: float
) -> Iterator[tuple[Array, Array, Array]]:
    """(places in ``held_out``, training rows, similarities) of all similar pairs."""
    train_long, held_long = (shingles.lengths[some] >= LONG_WORDS for some in (train, held_out))
    for size, among, asked in (
        (LONG_SIZE, train[train_long], held_long),
        (SHORT_SIZE, train, ~held_long),
        (SHORT_SIZE, train[~train_long], held_long),
    ):
        chosen = np.flatnonzero(asked)
        if not len(chosen) or not len(among):
            continue
        index = SimilarPairs(shingles.sets(size), among, threshold)
        for places, found, values in index.of(held_out[chosen]):
            yield chosen[places], found, values


class PostingIndex:
    """Which training rows hold a shingle, for both shingle sizes; a search looks at all of them."""

    def __init__(self, shingles: Shingles, train: Array, asked: Array) -> None:
        """``asked``: the texts that will be searched for; only what they hold is kept."""
        self._shingles = shingles
        self._train = train
        self._lengths = shingles.lengths[train]
        self._postings = {size: self._built(size, asked) for size in (SHORT_SIZE, LONG_SIZE)}

    def _built(self, size: int, asked: Array) -> tuple[Array, Array, Array]:
        """(shingle hashes in order, the row that holds each, shingles of each row)."""
        sets = self._shingles.sets(size)
        sizes = sets.sizes[self._train]
        known = np.unique(sets.gathered(asked))
        filled = np.flatnonzero(sizes)
        hashes, owners = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int32)]
        for first, last, flat, _ in sets.chunks(self._train[filled], _CHUNK):
            of_rows = np.repeat(filled[first:last].astype(np.int32), sizes[filled[first:last]])
            at = np.searchsorted(known, flat)
            is_known = known[np.minimum(at, len(known) - 1)] == flat if len(known) else at < 0
            hashes.append(flat[is_known])
            owners.append(of_rows[is_known])
        all_hashes, all_owners = np.concatenate(hashes), np.concatenate(owners)
        order = np.argsort(all_hashes, kind="stable")
        return all_hashes[order], all_owners[order], sizes

    def nearest(self, place: int) -> tuple[int, float]:
        """(place of the nearest training row or -1, its similarity)."""
        similarities = self._similarities(place)
        best = int(similarities.argmax()) if len(similarities) else -1
        if best < 0 or similarities[best] == 0:
            return -1, 0.0
        return int(self._train[best]), float(similarities[best])

    def _similarities(self, place: int) -> Array:
        """Jaccard similarity of one row to every training row."""
        result = np.zeros(len(self._train))
        is_long = self._shingles.lengths[place] >= LONG_WORDS
        for size in (SHORT_SIZE, LONG_SIZE) if is_long else (SHORT_SIZE,):
            suits = (self._lengths >= LONG_WORDS) == (size == LONG_SIZE)
            if not is_long:
                suits = np.ones(len(self._train), dtype=bool)
            own = self._shingles.of(place, size)
            hashes, owners, sizes = self._postings[size]
            starts = np.searchsorted(hashes, own, "left")
            ends = np.searchsorted(hashes, own, "right")
            parts = [
                owners[start:end] for start, end in zip(starts, ends, strict=True) if start < end
            ]
            if not parts:
                continue
            shared = np.bincount(np.concatenate(parts), minlength=len(self._train))
            jaccard = shared / np.maximum(1, len(own) + sizes - shared)
            result[suits] = jaccard[suits]
        return result
