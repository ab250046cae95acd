"""Sets of hashed shingles for many texts at once, as flat arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from veritune.data.spill import GrowingArray

Array = np.ndarray[Any, Any]

_BLOCK_WORDS = 1 << 20
_ROWS_TOGETHER = 1 << 19
_NOTHING = np.uint64(2**64 - 1)
_SEED = 20_000_003
_FACTORS = (
    np.random.default_rng(_SEED).integers(0, 2**63, size=16, dtype=np.uint64) * np.uint64(2) + 1
)


@dataclass(frozen=True)
class ShingleSets:
    """One set for each text.

    Attributes:
        hashes: the sets one after the other, each sorted; 63 bits.
        starts: where each begins, and the end of the last.
        sizes: members of each.
    """

    hashes: Array
    starts: Array
    sizes: Array

    def of(self, text: int) -> Array:
        """One set."""
        return np.asarray(self.hashes[self.starts[text] : self.starts[text + 1]])

    def gathered(self, texts: Array) -> Array:
        """The sets of some texts, one after the other."""
        return np.asarray(self.hashes[ranges(self.starts[texts], self.sizes[texts])])

    def chunks(self, chosen: Array, n_hashes: int) -> Iterator[tuple[int, int, Array, Array]]:
        """(first, last, hashes, starts in them) of runs of the chosen texts, none empty."""
        for first, last in blocks(self.sizes[chosen], n_hashes):
            texts = chosen[first:last]
            ends = np.cumsum(self.sizes[texts])
            if texts[-1] - texts[0] == len(texts) - 1:
                flat = self.hashes[self.starts[texts[0]] : self.starts[texts[-1] + 1]]
            else:
                flat = self.gathered(texts)
            yield first, last, np.asarray(flat), np.concatenate([[0], ends[:-1]])


def sets_of(words: Array, starts: Array, size: int) -> ShingleSets:
    """The sets of runs of ``size`` words.

    Args:
        words: codes of all texts' words.
        starts: where each text begins, and the end of the last.
    """
    counts = np.maximum(0, np.diff(starts) - size + 1)
    hashes = GrowingArray(np.uint64)
    sizes = np.zeros(len(counts), dtype=np.int64)
    for first, last in blocks(counts, _BLOCK_WORDS):
        block = np.asarray(words[starts[first] : starts[last]])
        own = counts[first:last]
        flat = _hashed(block, size)
        if len(flat):
            flat = flat[ranges(starts[first:last] - starts[first], own)]
            flat, sizes[first:last] = _unique_in_each(flat, own)
            hashes.append(flat)
    return ShingleSets(hashes.finish(), np.concatenate([[0], np.cumsum(sizes)]), sizes)


def common_counts(sets: ShingleSets, first: Array, second: Array) -> Array:
    """How many members each set of ``first`` shares with the set of ``second`` beside it."""
    lengths = sets.sizes[first] + sets.sizes[second]
    result = np.zeros(len(first), dtype=np.int64)
    for rows, width in _by_length(lengths):
        ones, twos = first[rows], second[rows]
        table = np.full((len(rows), width), _NOTHING, dtype=np.uint64)
        sizes = sets.sizes[ones]
        _fill(table, np.zeros_like(sizes), sizes, sets.gathered(ones))
        _fill(table, sizes, sets.sizes[twos], sets.gathered(twos))
        table.sort(axis=1)
        same = table[:, 1:] == table[:, :-1]
        same &= table[:, 1:] != _NOTHING
        result[rows] = same.sum(axis=1)
    return result


def ranges(starts: Array, counts: Array) -> Array:
    """The numbers ``start, …, start + count - 1`` of each range, one range after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    result: Array = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    return result


def blocks(counts: Array, most: int) -> Iterator[tuple[int, int]]:
    """(first, last) of runs with about ``most`` members together, at least one each."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last


def _hashed(words: Array, size: int) -> Array:
    """A hash for the run that begins at each word, as far as there is one."""
    count = len(words) - size + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for place in range(size):
        total += words[place : place + count] * _FACTORS[place]
    return _mixed(total) >> np.uint64(1)


def _unique_in_each(flat: Array, counts: Array) -> tuple[Array, Array]:
    """(each segment sorted and without repetitions, what is left of each)."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sizes = np.zeros(len(counts), dtype=np.int64)
    kept = np.full(len(flat), _NOTHING, dtype=np.uint64)
    for rows, width in _by_length(counts):
        own = counts[rows]
        table = np.full((len(rows), width), _NOTHING, dtype=np.uint64)
        places = ranges(starts[rows], own)
        _fill(table, np.zeros_like(own), own, flat[places])
        table.sort(axis=1)
        table[:, 1:][table[:, 1:] == table[:, :-1]] = _NOTHING
        is_real = table != _NOTHING
        sizes[rows] = is_real.sum(axis=1)
        kept[ranges(starts[rows], sizes[rows])] = table[is_real]
    return kept[kept != _NOTHING], sizes


def _fill(table: Array, columns: Array, counts: Array, flat: Array) -> None:
    """Put segments into the rows of a table, each from its column on."""
    width = table.shape[1]
    table.reshape(-1)[ranges(np.arange(len(table)) * width + columns, counts)] = flat


def _by_length(lengths: Array) -> Iterator[tuple[Array, int]]:
    """(places, longest length) of groups of about equal length, as many as memory bears."""
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    start = int(np.searchsorted(ordered, 0, side="right"))
    while start < len(order):
        shortest = int(ordered[start])
        longest = max(16, shortest + shortest // 4)
        end = int(np.searchsorted(ordered, longest, side="right"))
        end = min(end, start + max(1, _ROWS_TOGETHER // longest))
        yield order[start:end], int(ordered[end - 1])
        start = end


def _mixed(values: Array) -> Array:
    """Spread every bit over all others (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Array = values ^ (values >> np.uint64(31))
    return result
