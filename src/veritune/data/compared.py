"""The texts of rows in the form in which duplicates are looked for, made once for all uses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from veritune.data.canonical import Canonical, answer_forms, canonical_question
from veritune.data.near_duplicates import Shingles
from veritune.data.raw_rows import RawRow
from veritune.progress import Task

LONG_WORDS = 40
LONG_SIZE, SHORT_SIZE = 5, 2


class Compared:
    """Questions and answers in canonical form, and their shingles.

    Args:
        questions, answers: one of each for every row.
        named_answers: the answers' words with names as they are; None if nobody asked for them.
        renamed: whether the answers' own names are numbered.
    """

    def __init__(
        self,
        questions: Sequence[Canonical],
        answers: Sequence[Canonical],
        named_answers: Sequence[list[str]] | None = None,
        *,
        renamed: bool = True,
    ) -> None:
        self.questions = list(questions)
        self.answers = list(answers)
        self.renamed = renamed
        self.named_answers = None if named_answers is None else list(named_answers)

    @classmethod
    def of(
        cls,
        rows: Sequence[RawRow],
        *,
        rename_identifiers: bool = True,
        with_named: bool = False,
        task: Task | None = None,
    ) -> Compared:
        """Bring rows into canonical form."""
        questions, answers, named_answers = [], [], []
        for row in rows:
            questions.append(canonical_question(row.instruction, row.input))
            answer, named = answer_forms(
                row.output, rename=rename_identifiers, with_named=with_named
            )
            answers.append(answer)
            if with_named:
                named_answers.append(named)
            if task is not None:
                task.advance()
        named_or_none = named_answers if with_named else None
        return cls(questions, answers, named_or_none, renamed=rename_identifiers)

    def __len__(self) -> int:
        return len(self.questions)

    def at(self, places: Sequence[int]) -> Compared:
        """The rows at some places, in that order, without the named answers."""
        return Compared(
            [self.questions[place] for place in places],
            [self.answers[place] for place in places],
            renamed=self.renamed,
        )

    @cached_property
    def question_shingles(self) -> Shingles:
        """Shingle sets of the questions."""
        return Shingles([text.words for text in self.questions])

    @cached_property
    def answer_shingles(self) -> Shingles:
        """Shingle sets of the answers."""
        return Shingles([text.words for text in self.answers])


def shingle_size(first_length: int, second_length: int) -> int:
    """Words in a shingle for a pair: five, or two where a text is shorter than 40 words."""
    return LONG_SIZE if min(first_length, second_length) >= LONG_WORDS else SHORT_SIZE
