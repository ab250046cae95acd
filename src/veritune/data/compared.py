"""The texts of rows in the form in which duplicates are looked for, made once for all uses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from veritune.data.canonical import Canonical, canonical_answer, canonical_question
from veritune.data.near_duplicates import Shingles
from veritune.data.raw_rows import RawRow
from veritune.data.row_store import RowStore, rows_of
from veritune.data.spill import GrowingArray
from veritune.data.word_codes import codes_of
from veritune.data.workers import Workers
from veritune.progress import Task

Array = np.ndarray[Any, Any]

LONG_WORDS = 40
LONG_SIZE, SHORT_SIZE = 5, 2
_SIDES = ("question", "answer")


class Compared:
    """Questions and answers in canonical form as numbers, and their shingles.

    Attributes:
        question_keys, answer_keys: uint64, equal for texts that count as the same.
        question_shingles, answer_shingles: their words, in order.
        renamed: whether the answers' own names are numbered.
    """

    def __init__(
        self, rows: Sequence[RawRow], question: _Side, answer: _Side, *, renamed: bool = True
    ) -> None:
        self._rows = rows
        self._question, self._answer = question, answer
        self.renamed = renamed

    @classmethod
    def of(
        cls,
        rows: Sequence[RawRow],
        *,
        rename_identifiers: bool = True,
        task: Task | None = None,
        workers: Workers | None = None,
    ) -> Compared:
        """Bring rows into canonical form.

        Args:
            workers: share the work.
        """
        store = RowStore.of(rows)
        workers = workers or Workers(1)
        keys: dict[str, list[Array]] = {side: [] for side in _SIDES}
        lengths: dict[str, list[Array]] = {side: [] for side in _SIDES}
        words = {side: GrowingArray(np.uint64) for side in _SIDES}
        for batch in workers.map(
            f"{__name__}:comparer", {"rename": rename_identifiers}, store.batches(), len(store)
        ):
            for side in _SIDES:
                keys[side].append(batch.column(f"{side}_key").to_numpy())
                lists = batch.column(f"{side}_words")
                lengths[side].append(np.diff(lists.offsets.to_numpy()))
                words[side].append(lists.flatten().to_numpy())
            if task is not None:
                task.advance(batch.num_rows)
        sides = [
            _Side(
                np.concatenate([np.empty(0, dtype=np.uint64), *keys[side]]),
                Shingles.of_codes(
                    words[side].finish(),
                    np.concatenate([np.empty(0, dtype=np.int64), *lengths[side]]),
                ),
            )
            for side in _SIDES
        ]
        return cls(store, *sides, renamed=rename_identifiers)

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, places: Sequence[int]) -> Compared:
        """The rows at some places, in that order."""
        chosen = np.asarray(places, dtype=np.int64)
        sides = [
            _Side(side.keys[chosen], side.shingles.at(chosen))
            for side in (self._question, self._answer)
        ]
        return Compared(RowStore.of(self._rows).take(chosen), *sides, renamed=self.renamed)

    @property
    def question_keys(self) -> Array:
        """A number for each question, (rows,)."""
        return self._question.keys

    @property
    def answer_keys(self) -> Array:
        """A number for each answer, (rows,)."""
        return self._answer.keys

    @property
    def question_shingles(self) -> Shingles:
        """Shingle sets of the questions."""
        return self._question.shingles

    @property
    def answer_shingles(self) -> Shingles:
        """Shingle sets of the answers."""
        return self._answer.shingles

    @cached_property
    def questions(self) -> list[Canonical]:
        """The questions' canonical forms themselves; for few rows."""
        return [canonical_question(row.instruction, row.input) for row in self._rows]

    @cached_property
    def answers(self) -> list[Canonical]:
        """The answers' canonical forms themselves; for few rows."""
        return [canonical_answer(row.output, rename=self.renamed) for row in self._rows]


class _Side(NamedTuple):
    keys: Array
    shingles: Shingles


def comparer(*, rename: bool) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    """The work on one batch: keys and word codes of questions and answers."""

    def work(batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = rows_of(batch)
        forms = {
            "question": [canonical_question(row.instruction, row.input) for row in rows],
            "answer": [canonical_answer(row.output, rename=rename) for row in rows],
        }
        columns = {}
        for side, texts in forms.items():
            columns[f"{side}_key"] = pa.array(
                np.asarray([_number(text.key) for text in texts], dtype=np.uint64)
            )
            ends = np.cumsum([len(text.words) for text in texts], dtype=np.int64)
            codes = codes_of([word for text in texts for word in text.words])
            columns[f"{side}_words"] = pa.LargeListArray.from_arrays(
                pa.array(np.concatenate([[0], ends])), pa.array(codes)
            )
        return pa.RecordBatch.from_pydict(columns)

    return work


def _number(key: str) -> int:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def shingle_size(first_length: int, second_length: int) -> int:
    """Words in a shingle for a pair: five, or two where a text is shorter than 40 words."""
    return LONG_SIZE if min(first_length, second_length) >= LONG_WORDS else SHORT_SIZE
