"""Rows that share a question or an answer with rows that differ in the other."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from veritune.data.findings.finding import Collector
from veritune.rows import Example

MANY_QUESTIONS = 3
Array = np.ndarray[Any, Any]


class SharedTexts:
    """Takes in rows one by one; 16 bytes of memory a row."""

    def __init__(self) -> None:
        self._questions, self._answers = array("q"), array("q")

    def add(self, example: Example) -> None:
        """Take in one row."""
        self._questions.append(hash(_question(example)))
        self._answers.append(hash(example.reference))

    def collectors(self, examples: Sequence[Example], *, inputs_left_out: bool) -> list[Collector]:
        """Questions with several answers, answers with many questions.

        Args:
            examples: the rows taken in, in the same order.
        """
        questions = np.asarray(self._questions, dtype=np.int64)
        answers = np.asarray(self._answers, dtype=np.int64)
        several = Collector(
            "several_answers",
            "rows share their question with rows that answer it differently",
            "At most one of the answers can be given; the others raise the loss for good."
            + (" The inputs that might tell them apart are left out." if inputs_left_out else ""),
            "data.input=join" if inputs_left_out else "",
            act_from_percent=5,
        )
        many = Collector(
            "many_questions",
            f"rows share their answer with {MANY_QUESTIONS} or more questions",
            "They weigh as often as they occur, and count as one cluster in every split.",
        )
        _add(several, examples, _n_partners(questions, answers), 2, "{} answers to one question")
        _add(
            many,
            examples,
            _n_partners(answers, questions),
            MANY_QUESTIONS,
            "{} questions with one answer",
        )
        return [several, many]


def _add(
    collector: Collector, examples: Sequence[Example], counts: Array, least: int, kind: str
) -> None:
    """Rows with the most partners are shown first."""
    places = np.flatnonzero(counts >= least)
    for place in places[np.argsort(-counts[places], kind="stable")].tolist():
        if wanted := collector.count([kind.format(int(counts[place]))]):
            example = examples[place]
            collector.show(example, wanted, question_and_answer(example))


def _n_partners(texts: Array, others: Array) -> Array:
    """For each row, how many different others stand beside its text."""
    if not len(texts):
        return np.zeros(0, dtype=np.int64)
    pairs = np.unique(np.stack([texts, others], axis=1), axis=0)
    different, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.asarray(counts[np.searchsorted(different, texts)])


def question_and_answer(example: Example) -> str:
    """Both texts of a row."""
    question = f"{example.instruction} {example.input}".strip()
    return f"{question}\n\n{example.reference}"


def _question(example: Example) -> str:
    return " ".join(f"{example.instruction} {example.input}".casefold().split())
