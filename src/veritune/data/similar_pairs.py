"""All pairs of sets from two groups that are similar enough, none missed.

Two sets with a Jaccard similarity of ``t`` or more share ``k`` members among the rarest
``n - ceil(t n) + k`` of each (n its size), if both are put into one order: the prefix filter
of Chaudhuri, Ganti and Kaushik (2006), with the longer prefixes of Wang, Li and Feng (2012).
Only pairs that do are compared, so that members that most sets have cost nothing.  The larger
``k``, the fewer strangers are compared, and the more members are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from veritune.data.shingle_sets import ShingleSets, blocks, common_counts, ranges

Array = np.ndarray[Any, Any]

_CHUNK = 1 << 20
_PAIRS_TOGETHER = 1 << 20
_COMPARED_TOGETHER = 1 << 15
_MOST_COUNTER_BITS = 22
_SHARED = 2


class SimilarPairs:
    """Finds, for any sets, the members of one group that are similar to them.

    Args:
        sets: of all texts.
        group: places of the texts to search in.
        threshold: lowest Jaccard similarity of interest, above 0.
        labels: of all texts, below their number; two of one label are no pair, and cost nothing.
    """

    def __init__(
        self, sets: ShingleSets, group: Array, threshold: float, labels: Array | None = None
    ) -> None:
        self._sets = sets
        self._threshold = threshold
        self._labels = labels
        self._group = group[sets.sizes[group] > 0]
        # Frequencies of members, of several together where they share a counter: any order
        # serves, the nearer to that by rarity the faster.
        n_members = int(sets.sizes[self._group].sum())
        self._bits = min(_MOST_COUNTER_BITS, max(1, n_members.bit_length() + 1))
        self._counts = np.zeros(1 << self._bits, dtype=np.int64)
        for _, _, flat, _ in sets.chunks(self._group, _CHUNK):
            self._counts += np.bincount(self._counter(flat), minlength=len(self._counts))
        found = [*self._prefixes(self._group)]
        members = np.concatenate([np.empty(0, dtype=np.uint64), *(flat for flat, _ in found)])
        owners = np.concatenate([np.empty(0, dtype=np.int32), *(own for _, own in found)])
        del found
        if labels is None:
            order = np.argsort(members, kind="stable")
        else:
            order = np.lexsort((labels[self._group[owners]], members))
        members, self._owners = members[order], owners[order]
        self._known, starts = np.unique(members, return_index=True)
        self._bounds = np.append(starts, len(members))
        self._labelled = np.empty(0, dtype=np.int64)
        if labels is not None:
            numbers = np.repeat(np.arange(len(self._known)), np.diff(self._bounds))
            self._labelled = self._with_label(numbers, self._group[self._owners])

    def of(self, texts: Array, *, once: bool = False) -> Iterator[tuple[Array, Array, Array]]:
        """(place in ``texts``, place of the similar text, similarity) of all pairs.

        A text is also similar to itself, if it is in the group.

        Args:
            once: give a pair of which both are asked for once, and no text with itself.
        """
        texts = np.asarray(texts, dtype=np.int64)
        filled = np.flatnonzero(self._sets.sizes[texts] > 0)
        if not len(self._group) or not len(filled):
            return
        comes_later = np.zeros(len(self._sets.sizes) if once else 0, dtype=bool)
        comes_later[texts if once else []] = True
        for members, owners in self._prefixes(texts[filled]):
            numbers = np.minimum(np.searchsorted(self._known, members), len(self._known) - 1)
            is_known = self._known[numbers] == members
            if is_known.any():
                yield from self._joined(
                    texts, filled[owners[is_known]], numbers[is_known], comes_later
                )

    def _joined(
        self, texts: Array, owners: Array, numbers: Array, comes_later: Array
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Pairs of sizes that allow the threshold, and with enough rare members in common.

        Args:
            owners: the place in ``texts`` that holds each member, equal ones together.
            numbers: of the members.
            comes_later: texts whose pairs are found from the other side too.
        """
        starts, counts = self._others(numbers, texts[owners])
        # A text's members stay together, so that a pair is compared once.
        begins = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        sizes, n_group = self._sets.sizes, len(self._group)
        for first, last in blocks(np.add.reduceat(counts.sum(axis=1), begins), _PAIRS_TOGETHER):
            part = slice(begins[first], begins[last] if last < len(begins) else None)
            found = self._owners[ranges(starts[part].ravel(), counts[part].ravel())]
            asked = np.repeat(owners[part], counts[part].sum(axis=1))
            ours, theirs = texts[asked], self._group[found]
            one, two = sizes[ours], sizes[theirs]
            possible = np.minimum(one, two) >= self._threshold * np.maximum(one, two) - 1e-9
            if len(comes_later):
                possible &= (theirs < ours) | ~comes_later[theirs]
            pairs = asked[possible] * n_group + found[possible]
            pairs.sort()
            first_of = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
            n_shared = np.diff(np.append(first_of, len(pairs)))
            if not len(pairs):
                continue
            asked, found = pairs[first_of] // n_group, self._group[pairs[first_of] % n_group]
            large = np.maximum(sizes[texts[asked]], sizes[found])
            enough = n_shared >= np.minimum(_SHARED, self._least_common(large))
            yield from self._verified(texts, asked[enough], found[enough])

    def _others(self, numbers: Array, texts: Array) -> tuple[Array, Array]:
        """Where the owners of each member are that have another label: starts and counts."""
        starts, ends = self._bounds[numbers], self._bounds[numbers + 1]
        if self._labels is None:
            return starts[:, None], (ends - starts)[:, None]
        own = self._with_label(numbers, texts)
        low = np.searchsorted(self._labelled, own, "left")
        high = np.searchsorted(self._labelled, own, "right")
        return np.stack([starts, high], axis=1), np.stack([low - starts, ends - high], axis=1)

    def _with_label(self, numbers: Array, texts: Array) -> Array:
        """A number for a member and a label, in the order of both."""
        assert self._labels is not None
        result: Array = numbers.astype(np.int64) * len(self._labels) + self._labels[texts]
        return result

    def _least_common(self, sizes: Array) -> Array:
        """Members that a set of this size shares with any set similar to it."""
        result: Array = np.ceil(self._threshold * sizes - 1e-9).astype(np.int64)
        return result

    def _verified(
        self, texts: Array, asked: Array, found: Array
    ) -> Iterator[tuple[Array, Array, Array]]:
        sizes = self._sets.sizes
        for start in range(0, len(asked), _COMPARED_TOGETHER):
            ones = asked[start : start + _COMPARED_TOGETHER]
            twos = found[start : start + _COMPARED_TOGETHER]
            shared = common_counts(self._sets, texts[ones], twos)
            similarity = shared / (sizes[texts[ones]] + sizes[twos] - shared)
            enough = similarity >= self._threshold
            yield ones[enough], twos[enough], similarity[enough]

    def _prefixes(self, texts: Array) -> Iterator[tuple[Array, Array]]:
        """(rarest members, place in ``texts`` of the set that each is from), chunk by chunk."""
        for first, last, flat, _ in self._sets.chunks(texts, _CHUNK):
            sizes = self._sets.sizes[texts[first:last]]
            owners = np.repeat(np.arange(first, last), sizes)
            order = np.lexsort((self._counts[self._counter(flat)], owners))
            kept = np.minimum(sizes, sizes - self._least_common(sizes) + _SHARED)
            starts = np.cumsum(sizes) - sizes
            chosen = order[ranges(starts, kept)]
            yield flat[chosen], np.repeat(np.arange(first, last), kept).astype(np.int32)

    def _counter(self, hashes: Array) -> Array:
        return (hashes >> np.uint64(63 - self._bits)).astype(np.int64)
