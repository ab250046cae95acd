"""The baseline without a model: the answer of the most similar training question.

Similarity is BM25 (Robertson and Zaragoza, 2009) over the words of the question.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from veritune.rows import Example


class NearestQuestions:
    """An index over training questions.

    Args:
        train: the examples to copy from.
        join_input: whether the input column is part of the question.
    """

    def __init__(self, train: Sequence[Example], *, join_input: bool) -> None:
        import bm25s

        # It sets its own logger to DEBUG, whatever the program that imports it wants.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._train = list(train)
        self._join_input = join_input
        self._index: Any = bm25s.BM25()
        self._index.index(self._tokens([self._text(row) for row in train]), show_progress=False)

    def nearest(self, examples: Sequence[Example], k: int) -> list[list[tuple[Example, float]]]:
        """For each example the ``k`` nearest training examples with their scores, best first.

        An example never finds itself; ties go to the earlier training row.
        """
        k = min(k, len(self._train) - 1) if len(self._train) > 1 else 1
        found: list[list[tuple[int, float]]] = []
        for query in self._tokens([self._text(row) for row in examples], as_words=True):
            scores = np.zeros(len(self._train))
            if query:
                scores = np.asarray(self._index.get_scores(query))
            best = np.argsort(-scores, kind="stable")[: k + 1]
            found.append([(int(index), float(scores[index])) for index in best])
        return [
            [
                (self._train[index], score)
                for index, score in row
                if self._train[index].example_id != example.example_id
            ][:k]
            for example, row in zip(examples, found, strict=True)
        ]

    def own_score(self, example: Example) -> float:
        """The highest score that anything here has for a question, itself included."""
        (query,) = self._tokens([self._text(example)], as_words=True)
        return float(np.max(self._index.get_scores(query))) if query else 0.0

    def _text(self, example: Example) -> str:
        return f"{example.instruction} {example.input if self._join_input else ''}"

    @staticmethod
    def _tokens(texts: list[str], *, as_words: bool = False) -> Any:
        import bm25s

        return bm25s.tokenize(texts, stopwords=[], return_ids=not as_words, show_progress=False)


def retrieval_scores(
    train: Sequence[Example], asked: Sequence[Example], *, join_input: bool
) -> dict[str, float]:
    """How near the nearest training question is: quantiles of its BM25 score.

    The score of a question against itself is the scale: ``share_of_self`` is the median of
    score / own score, near 1 where questions repeat.
    """
    if not train or not asked:
        return {}
    found = NearestQuestions(train, join_input=join_input).nearest(asked, 1)
    scores = np.array([row[0][1] if row else 0.0 for row in found])
    # An index with the questions themselves in it gives each its highest possible score.
    both = NearestQuestions([*train, *asked], join_input=join_input)
    own = np.array([both.own_score(row) for row in asked])
    quantiles = np.quantile(scores, [0.1, 0.25, 0.5, 0.75, 0.9])
    names = ("q10", "q25", "median", "q75", "q90")
    return {
        **{name: float(value) for name, value in zip(names, quantiles, strict=True)},
        "share_of_self": float(np.median(scores / np.maximum(own, 1e-9))),
        "n": float(len(scores)),
    }
