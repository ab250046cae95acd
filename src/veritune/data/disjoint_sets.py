"""Union-find over many positions at once."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class DisjointSets:
    """Disjoint sets of positions; a set is known by its first position."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size, dtype=np.int64)

    def find(self, positions: Array) -> Array:
        """The first position of each one's set."""
        parent = self._parent
        roots = parent[positions]
        while True:
            above = parent[roots]
            if (above == roots).all():
                break
            roots = above
        parent[positions] = roots
        return roots

    def join(self, ones: Array, twos: Array) -> None:
        """Unite the set of each of ``ones`` with the set of the one of ``twos`` beside it."""
        while len(ones):
            first, second = self.find(ones), self.find(twos)
            differ = first != second
            ones, twos = first[differ], second[differ]
            np.minimum.at(self._parent, np.maximum(ones, twos), np.minimum(ones, twos))

    def numbers(self) -> Array:
        """A number for each position's set, in order of first appearance."""
        roots = self.find(np.arange(len(self._parent)))
        return np.unique(roots, return_inverse=True)[1]
