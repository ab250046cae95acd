"""Clusters of rows that repeat each other: the unit of splitting and of statistics.

Two rows belong together if their questions or their answers are the same in canonical form,
or near-duplicates (Jaccard similarity of shingles at least ``data.duplicates`` says, verified
on the pair); a cluster is everything that such links connect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from veritune.config import DuplicatesSection
from veritune.data.canonical import Canonical
from veritune.data.compared import LONG_SIZE, LONG_WORDS, SHORT_SIZE, Compared, shingle_size
from veritune.data.near_duplicates import Shingles
from veritune.data.raw_rows import RawRow
from veritune.progress import Reporter, Silent

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


def find_clusters(
    rows: Sequence[RawRow],
    reporter: Reporter | None = None,
    settings: DuplicatesSection | None = None,
) -> Clusters:
    """Group rows whose questions or answers are duplicates or near-duplicates."""
    settings = settings or DuplicatesSection()
    with (reporter or Silent()).task("compare the rows", len(rows)) as task:
        texts = Compared.of(rows, rename_identifiers=settings.rename_identifiers, task=task)
    return clusters_of(texts, settings, reporter)


def clusters_of(
    texts: Compared, settings: DuplicatesSection, reporter: Reporter | None = None
) -> Clusters:
    """Group rows whose texts are in canonical form already."""
    sets = _Sets(len(texts))
    questions, answers = texts.question_shingles, texts.answer_shingles
    with (reporter or Silent()).task("find near-duplicates", 3) as task:
        for canonical in (texts.questions, texts.answers):
            _link_equal(canonical, sets)
        for canonical, shingles, threshold in (
            (texts.questions, questions, settings.instruction_jaccard),
            (texts.answers, answers, settings.answer_jaccard),
        ):
            _link_similar(_first_of_each(canonical), shingles, threshold, sets)
            task.advance()
        _link_reworded(
            _first_of_each(texts.questions), questions, answers, settings.instruction_jaccard, sets
        )
        task.advance()
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
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]],
    shingles: Shingles,
    threshold: float,
    sets: _Sets,
) -> None:
    """Link near-duplicates: runs of five words, of two where one text of the pair is short."""
    lengths = shingles.lengths[chosen]
    long = chosen[lengths >= LONG_WORDS]
    short = chosen[lengths < LONG_WORDS / threshold]
    for group, size in ((long, LONG_SIZE), (short, SHORT_SIZE)):
        for one, two in shingles.candidates(group, size, threshold):
            if sets.find(one) == sets.find(two):
                continue
            suits = size == shingle_size(shingles.lengths[one], shingles.lengths[two])
            if suits and shingles.jaccard(one, two, size) >= threshold:
                sets.join(one, two)


def _link_reworded(
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]],
    questions: Shingles,
    answers: Shingles,
    threshold: float,
    sets: _Sets,
) -> None:
    """Link short questions of the same words in another order, if their answers are alike."""
    few = chosen[questions.lengths[chosen] <= _FEW_WORDS]
    for one, two in questions.candidates(few, 1, threshold):
        if (
            sets.find(one) != sets.find(two)
            and answers.jaccard(one, two, SHORT_SIZE) >= _SIMILAR_ANSWER
            and questions.jaccard(one, two, 1) >= threshold
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
