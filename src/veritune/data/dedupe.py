"""Clusters of rows that repeat each other: the unit of splitting and of statistics.

Two rows belong together if their questions or their answers are the same in canonical form,
or near-duplicates (Jaccard similarity of shingles at least ``data.duplicates`` says, verified
on the pair); a cluster is everything that such links connect.  MinHash joins most of them
fast; a search that misses none then joins the others, so that a split by clusters has no
near-duplicates across its parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from veritune.config import DuplicatesSection
from veritune.data.compared import LONG_SIZE, LONG_WORDS, SHORT_SIZE, Compared
from veritune.data.disjoint_sets import DisjointSets
from veritune.data.near_duplicates import Shingles
from veritune.data.raw_rows import RawRow
from veritune.data.row_keys import first_of_equals
from veritune.data.similar_pairs import SimilarPairs
from veritune.progress import Reporter, Silent

Array = np.ndarray[Any, Any]

# Single words chain strangers: they link questions only where the answers are alike too.
_FEW_WORDS = 16
_SIMILAR_ANSWER = 0.5
_PAIRS_TOGETHER = 1 << 15
# Of the pairs at 0.7 these bands find four in five, at 0.9 nearly all; the exact search the rest.
_FEW_BANDS = 12


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
    texts: Compared,
    settings: DuplicatesSection,
    reporter: Reporter | None = None,
    threads: int = 1,
) -> Clusters:
    """Group rows whose texts are in canonical form already."""
    sets = DisjointSets(len(texts))
    questions, answers = texts.question_shingles, texts.answer_shingles
    first_questions = _joined_equals(texts.question_keys, sets)
    first_answers = _joined_equals(texts.answer_keys, sets)
    links = _Links(sets, threads)
    with (reporter or Silent()).task("find near-duplicates", 3) as task:
        for chosen, shingles, threshold in (
            (first_questions, questions, settings.instruction_jaccard),
            (first_answers, answers, settings.answer_jaccard),
        ):
            links.add_similar(chosen, shingles, threshold)
            links.add_missed(chosen, shingles, threshold)
            task.advance()
        links.add_reworded(first_questions, questions, answers, settings.instruction_jaccard)
        task.advance()
    return Clusters([f"c{number:06d}" for number in sets.numbers().tolist()])


def _joined_equals(keys: Array, sets: DisjointSets) -> Array:
    """Link equal texts; the places of those that repeat no earlier one."""
    first, group = first_of_equals(keys)
    sets.join(first[group], np.arange(len(keys)))
    return first


class _Links:
    """Joins what is near-duplicate; ``threads`` prepare the candidates."""

    def __init__(self, sets: DisjointSets, threads: int) -> None:
        self._sets = sets
        self._threads = threads

    def add_similar(self, chosen: Array, shingles: Shingles, threshold: float) -> None:
        """Near-duplicates by runs of five words, of two where one text of the pair is short."""
        lengths = shingles.lengths[chosen]
        for group, size in (
            (chosen[lengths >= LONG_WORDS], LONG_SIZE),
            (chosen[lengths < LONG_WORDS / threshold], SHORT_SIZE),
        ):
            candidates = self._open_pairs(shingles, group, size, threshold, _FEW_BANDS)
            for all_ones, all_twos in candidates:
                shorter = np.minimum(shingles.lengths[all_ones], shingles.lengths[all_twos])
                suits = (shorter >= LONG_WORDS) == (size == LONG_SIZE)
                ones, twos = all_ones[suits], all_twos[suits]
                similar = shingles.jaccards(ones, twos, size) >= threshold
                self._sets.join(ones[similar], twos[similar])

    def add_missed(self, chosen: Array, shingles: Shingles, threshold: float) -> None:
        """Every other pair that is similar enough, so that no such pair can be torn apart.

        What MinHash has joined is left out, which keeps the search fast where very many rows
        are alike.
        """
        is_long = shingles.lengths[chosen] >= LONG_WORDS
        is_near = shingles.lengths[chosen] < LONG_WORDS / threshold
        for size, group, asked in (
            (LONG_SIZE, chosen[is_long], chosen[is_long]),
            (SHORT_SIZE, chosen[is_near], chosen[~is_long]),
        ):
            labels = self._sets.numbers()
            index = SimilarPairs(shingles.sets(size), group, threshold, labels)
            for places, others, _ in index.of(asked, once=True):
                self._sets.join(asked[places], others)

    def add_reworded(
        self, chosen: Array, questions: Shingles, answers: Shingles, threshold: float
    ) -> None:
        """Short questions of the same words in another order, if their answers are alike."""
        few = chosen[questions.lengths[chosen] <= _FEW_WORDS]
        for all_ones, all_twos in self._open_pairs(questions, few, 1, threshold):
            similar = questions.jaccards(all_ones, all_twos, 1) >= threshold
            ones, twos = all_ones[similar], all_twos[similar]
            alike = answers.jaccards(ones, twos, SHORT_SIZE) >= _SIMILAR_ANSWER
            self._sets.join(ones[alike], twos[alike])

    def _open_pairs(
        self,
        shingles: Shingles,
        chosen: Array,
        size: int,
        threshold: float,
        most_bands: int | None = None,
    ) -> Iterator[tuple[Array, Array]]:
        """Candidates in different clusters and of sizes that allow the threshold.

        Which pairs are left out depends on what was joined before; what is connected in the
        end does not.
        """
        sizes = shingles.sets(size).sizes
        for candidates in shingles.candidate_pairs(
            chosen, size, threshold, self._threads, most_bands
        ):
            for start in range(0, candidates.shape[1], _PAIRS_TOGETHER):
                ones, twos = candidates[:, start : start + _PAIRS_TOGETHER]
                first, second = sizes[ones], sizes[twos]
                fits = np.minimum(first, second) >= threshold * np.maximum(first, second) - 1e-9
                ones, twos = ones[fits], twos[fits]
                apart = self._sets.find(ones) != self._sets.find(twos)
                if apart.any():
                    yield ones[apart], twos[apart]
