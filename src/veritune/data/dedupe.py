"""Clusters of rows that repeat each other: the unit of splitting and of statistics.

Two rows belong together if their questions or their answers are the same in canonical form,
or near-duplicates (Jaccard similarity of shingles at least 0.7, verified on the pair); a
cluster is everything that such links connect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from veritune.data.canonical import Canonical, canonical_answer, canonical_question
from veritune.data.near_duplicates import Shingles
from veritune.data.raw_rows import RawRow
from veritune.progress import Reporter, Silent

THRESHOLD = 0.7
_LONG_WORDS = 40
_LONG_SIZE, _SHORT_SIZE = 5, 2
# Single words chain strangers: they link questions only where the answers are alike too.
_FEW_WORDS = 16
_SIMILAR_ANSWER = 0.5


@dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters of a list of rows.

    Attributes:
        ids: the cluster of each row; numbered in order of first appearance.
    """

    ids: list[str]

    @property
    def sizes(self) -> Counter[str]:
        """Rows of each cluster."""
        return Counter(self.ids)


def find_clusters(rows: Sequence[RawRow], reporter: Reporter | None = None) -> Clusters:
    """Group rows whose questions or answers are duplicates or near-duplicates."""
    questions, answers = [], []
    sets = _Sets(len(rows))
    with (reporter or Silent()).task("find near-duplicates", 2 * len(rows)) as task:
        for row in rows:
            questions.append(canonical_question(row.instruction, row.input))
            answers.append(canonical_answer(row.output))
            task.advance()
        for texts in (questions, answers):
            _link_equal(texts, sets)
        answer_shingles = Shingles([text.words for text in answers])
        question_shingles = Shingles([text.words for text in questions])
        for texts, shingles in ((questions, question_shingles), (answers, answer_shingles)):
            _link_similar(_first_of_each(texts), shingles, sets)
            task.advance(len(rows) / 2)
        _link_reworded(_first_of_each(questions), question_shingles, answer_shingles, sets)
    return Clusters(sets.names())


def _link_equal(texts: Iterable[Canonical], sets: _Sets) -> None:
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        sets.join(first.setdefault(text.key, position), position)


def _first_of_each(texts: Iterable[Canonical]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Positions of texts that repeat no earlier one; equal ones are linked already."""
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        first.setdefault(text.key, position)
    return np.asarray(list(first.values()), dtype=np.int64)


def _link_similar(
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]], shingles: Shingles, sets: _Sets
) -> None:
    """Link near-duplicates: runs of five words, of two where one text of the pair is short."""
    lengths = shingles.lengths[chosen]
    long = chosen[lengths >= _LONG_WORDS]
    short = chosen[lengths < _LONG_WORDS / THRESHOLD]
    for group, size in ((long, _LONG_SIZE), (short, _SHORT_SIZE)):
        for one, two in shingles.candidates(group, size):
            if sets.find(one) == sets.find(two):
                continue
            both_long = min(shingles.lengths[one], shingles.lengths[two]) >= _LONG_WORDS
            if both_long == (size == _LONG_SIZE) and shingles.jaccard(one, two, size) >= THRESHOLD:
                sets.join(one, two)


def _link_reworded(
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]],
    questions: Shingles,
    answers: Shingles,
    sets: _Sets,
) -> None:
    """Link short questions of the same words in another order, if their answers are alike."""
    few = chosen[questions.lengths[chosen] <= _FEW_WORDS]
    for one, two in questions.candidates(few, 1):
        if (
            sets.find(one) != sets.find(two)
            and answers.jaccard(one, two, _SHORT_SIZE) >= _SIMILAR_ANSWER
            and questions.jaccard(one, two, 1) >= THRESHOLD
        ):
            sets.join(one, two)


class _Sets:
    """Disjoint sets of positions; a set is known by its first position."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, position: int) -> int:
        parent = self._parent
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    def join(self, one: int, two: int) -> None:
        low, high = sorted((self.find(one), self.find(two)))
        self._parent[high] = low

    def names(self) -> list[str]:
        numbers: dict[int, int] = {}
        roots = [self.find(position) for position in range(len(self._parent))]
        return [f"c{numbers.setdefault(root, len(numbers)):06d}" for root in roots]
