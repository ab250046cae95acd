"""The words of questions and answers: how often each occurs, and how fast new ones come."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from veritune.data.findings import sampled_places
from veritune.rows import Example

SAMPLED_ROWS = 20_000
_TEXT_CHARACTERS = 20_000
_WORD = re.compile(r"[^\W\d]\w{0,79}+")
_N_POINTS = 40
_N_SHOWN = 30


class Vocabulary:
    """Counts the words of a seeded sample of at most 20,000 of the rows it is shown, in order.

    Words are runs of letters, digits and ``_`` that start with no digit, of questions in lower
    case.
    """

    def __init__(self, n_rows: int) -> None:
        self._n_rows, self._n_seen = n_rows, 0
        places = sampled_places(n_rows, SAMPLED_ROWS)
        self._is_sampled = np.zeros(n_rows, dtype=bool)
        self._is_sampled[np.asarray(places, dtype=np.int64)] = True
        self._questions, self._answers = _Words(), _Words()

    def add(self, row: Example) -> None:
        """Take in the next row."""
        if self._is_sampled[self._n_seen]:
            self._questions.add(f"{row.instruction} {row.input}".lower())
            self._answers.add(row.reference)
        self._n_seen += 1

    def to_json(self) -> dict[str, Any] | None:
        """What was counted; None without rows.

        ``ranks`` holds (rank, occurrences), ``growth`` (words read, different ones so far).
        """
        if not self._n_rows:
            return None
        return {
            "n_rows": int(self._is_sampled.sum()),
            "of_rows": self._n_rows,
            "source": self._questions.to_json(),
            "target": self._answers.to_json(),
        }


def vocabulary(examples: Sequence[Example]) -> dict[str, Any] | None:
    """The vocabulary of some rows."""
    found = Vocabulary(len(examples))
    for example in examples:
        found.add(example)
    return found.to_json()


class _Words:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._growth = [(0, 0)]
        self._n_words = 0

    def add(self, text: str) -> None:
        found = _WORD.findall(text[:_TEXT_CHARACTERS])
        self._n_words += len(found)
        self._counts.update(found)
        self._growth.append((self._n_words, len(self._counts)))

    def to_json(self) -> dict[str, Any]:
        by_rank = sorted(self._counts.values(), reverse=True)
        return {
            "n_words": self._n_words,
            "n_different": len(self._counts),
            "n_once": sum(count == 1 for count in by_rank),
            "ranks": [[rank, by_rank[rank - 1]] for rank in _spread(len(by_rank))],
            "growth": [list(self._growth[place]) for place in _evenly(len(self._growth))],
            "most_frequent": [[word, count] for word, count in self._counts.most_common(_N_SHOWN)],
        }


def _spread(n_ranks: int) -> list[int]:
    """Ranks from 1 to the last, equally far apart on a logarithmic scale."""
    if not n_ranks:
        return []
    return sorted({round(rank) for rank in np.geomspace(1, n_ranks, _N_POINTS).tolist()})


def _evenly(n_places: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, n_places - 1, _N_POINTS).tolist()})
