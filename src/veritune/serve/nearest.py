"""Was this memorised?  The training question nearest to a question, and its answer."""

from __future__ import annotations

import threading
from typing import Any

from veritune.generate.retrieval import NearestQuestions
from veritune.rows import Example, read_examples
from veritune.serve.catalog import ServedRun


class NearestTraining:
    """An index over each run's training rows, built when first asked."""

    def __init__(self) -> None:
        self._indexes: dict[str, NearestQuestions | None] = {}
        self._lock = threading.Lock()

    def find(self, run: ServedRun, question: str, answer: str) -> dict[str, Any] | None:
        """The nearest training row; None where the run has no training rows.

        ``question_likeness`` and ``answer_likeness`` are 1 − insertions and deletions as a
        share of both lengths: 1 where the texts are equal.
        """
        from rapidfuzz import fuzz

        index = self._index(run)
        if index is None:
            return None
        asked = Example("asked", "asked", "test", question, "", "")
        found = index.nearest([asked], 1)[0]
        if not found:
            return None
        row, score = found[0]
        return {
            "question": _joined(row),
            "answer": row.reference,
            "source": row.source,
            "score": round(score, 3),
            "question_likeness": round(fuzz.ratio(question.strip(), _joined(row)) / 100, 3),
            "answer_likeness": round(fuzz.ratio(answer.strip(), row.reference.strip()) / 100, 3),
        }

    def _index(self, run: ServedRun) -> NearestQuestions | None:
        with self._lock:
            if run.name not in self._indexes:
                file = run.run.split_file("train")
                rows = read_examples(file) if file.is_file() else []
                self._indexes[run.name] = (
                    NearestQuestions(rows, join_input=run.format.join_input) if rows else None
                )
            return self._indexes[run.name]


def _joined(row: Example) -> str:
    return f"{row.instruction}\n\n{row.input}".strip()
