"""Which texts overlap a benchmark's tasks: by words in a row, or by edit similarity.

Both searches are exact: an index or a bound leaves out only what cannot match.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

Array = np.ndarray[Any, Any]
Words = Sequence[str]

# Words in a row that so many different tasks share are the benchmark's format, not a task.
_MAX_TASKS_OF_A_RUN = 3
_NO_WORD = -1


class Overlap(NamedTuple):
    """One text that overlaps one task.

    Attributes:
        similarity: of the two texts; None where a shared run decided.
        shared: the longest run of words that both have.
    """

    row: int
    task: int
    similarity: float | None
    shared: str


def shared_runs(rows: Sequence[Words], tasks: Sequence[Words], size: int) -> Iterator[Overlap]:
    """Each row's longest run of at least ``size`` words that a task has too.

    Runs that more than three tasks share do not count, nor do runs of which less than half
    the words have a letter.
    """
    runs = _runs_of_tasks(tasks, size)
    known = {word for run in runs for word in run}
    for row, words in enumerate(rows):
        best: tuple[int, int, int] | None = None
        began: dict[int, int] = {}
        last = -1
        for start, run in _runs(words, size, known):
            goes_on = start == last + 1
            last = start
            began = {
                task: began.get(task, start) if goes_on else start for task in runs.get(run, ())
            }
            for task, first in began.items():
                length = start + size - first
                if best is None or length > best[0]:
                    best = (length, task, first)
        if best is not None:
            length, task, first = best
            yield Overlap(row, task, None, " ".join(words[first : first + length]))


def similar_texts(
    rows: Sequence[Words], tasks: Sequence[Words], threshold: float, min_words: int
) -> Iterator[Overlap]:
    """Each row's most similar task, from ``threshold`` on.

    Similarity is 1 - d / n, d the Levenshtein distance over words and n the longer text's
    length.  Texts with fewer than ``min_words`` words do not take part.

    A pair has d >= n - m with m the words they share (as bags), so that only rows with
    m >= threshold * n are compared at all.
    """
    bags = _Bags(rows, tasks)
    best: dict[int, tuple[float, int]] = {}
    for task, words in enumerate(tasks):
        if len(words) < max(1, min_words):
            continue
        of_task = bags.coded(words)
        for row in bags.candidates(of_task, threshold, min_words):
            similarity = Levenshtein.normalized_similarity(
                bags.coded(rows[row]), of_task, score_cutoff=threshold
            )
            if similarity >= threshold and similarity > best.get(row, (0.0, 0))[0]:
                best[row] = (similarity, task)
    for row in sorted(best):
        similarity, task = best[row]
        yield Overlap(row, task, similarity, _longest_block(rows[row], tasks[task]))


def _runs_of_tasks(tasks: Sequence[Words], size: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    found: dict[tuple[str, ...], dict[int, None]] = defaultdict(dict)
    first: dict[tuple[str, ...], int] = {}
    for task, words in enumerate(tasks):
        if first.setdefault(tuple(words), task) != task:
            continue
        for start in range(len(words) - size + 1):
            found[tuple(words[start : start + size])][task] = None
    return {
        run: tuple(of_tasks)
        for run, of_tasks in found.items()
        if len(of_tasks) <= _MAX_TASKS_OF_A_RUN and 2 * sum(map(_has_letter, run)) >= size
    }


def _runs(words: Words, size: int, known: set[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(start, run) of each run of known words."""
    n_known = 0
    for end, word in enumerate(words, start=1):
        n_known = n_known + 1 if word in known else 0
        if n_known >= size:
            yield end - size, tuple(words[end - size : end])


def _has_letter(word: str) -> bool:
    return any(map(str.isalpha, word))


class _Bags:
    """How often each row has each word of the tasks."""

    def __init__(self, rows: Sequence[Words], tasks: Sequence[Words]) -> None:
        self._codes: dict[str, int] = {}
        for words in tasks:
            for word in words:
                self._codes.setdefault(word, len(self._codes))
        self._lengths = np.asarray([len(words) for words in rows], dtype=np.int64)
        codes = self._codes
        flat = np.fromiter(
            (codes.get(word, _NO_WORD) for words in rows for word in words),
            dtype=np.int64,
            count=int(self._lengths.sum()),
        )
        owners = np.repeat(np.arange(len(rows)), self._lengths)
        is_known = flat != _NO_WORD
        pairs, counts = np.unique(
            flat[is_known] * max(1, len(rows)) + owners[is_known], return_counts=True
        )
        self._owners = pairs % max(1, len(rows))
        self._counts = counts
        self._starts = np.searchsorted(pairs // max(1, len(rows)), np.arange(len(self._codes) + 1))

    def coded(self, words: Words) -> list[int | str]:
        """Words as small numbers; a word that no task has stays itself."""
        return [self._codes.get(word, word) for word in words]

    def candidates(self, task: Sequence[Any], threshold: float, min_words: int) -> list[int]:
        """Rows that share enough words with a task of this length to be similar to it."""
        shared = np.zeros(len(self._lengths), dtype=np.int64)
        for code, count in Counter(task).items():
            span = slice(self._starts[code], self._starts[code + 1])
            shared[self._owners[span]] += np.minimum(self._counts[span], count)
        longer = np.maximum(self._lengths, len(task))
        enough = (shared >= threshold * longer - 1e-6) & (self._lengths >= max(1, min_words))
        return [int(row) for row in np.flatnonzero(enough)]


def _longest_block(row: Words, task: Words) -> str:
    blocks = Levenshtein.opcodes(list(row), list(task))
    equal = [item for item in blocks if item.tag == "equal"]
    if not equal:
        return ""
    longest = max(equal, key=lambda item: item.src_end - item.src_start)
    return " ".join(row[longest.src_start : longest.src_end])
