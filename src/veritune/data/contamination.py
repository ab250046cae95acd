"""Rows that repeat a task of a published benchmark: learning them would be learning the test.

A row overlaps a task if one of these holds, tried in this order:

- ``question_ngram``: ``ngram`` words in a row of the task's question are in the row, in its
  question or its answer, comments and docstrings included;
- ``answer_ngram``: ``ngram`` words in a row of the task's solution are in the row's answer;
  names as they are, without punctuation, comments and docstrings;
- ``question_edit``: the questions' edit similarity over words; both have ``ngram`` words or
  more, or the questions are equal;
- ``answer_edit``: the same of answer and solution over words and marks, without comments,
  docstrings and layout: with names as they are from 20 of them on, with own names numbered
  (unless ``data.duplicates.rename_identifiers`` is off) from 40 on, since short programs of
  one shape are no copies of each other.

Of a task's question its tests and the lines that most tasks share are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from veritune.config import ContaminationSection
from veritune.data.benchmark_overlap import Overlap, shared_runs, similar_texts
from veritune.data.benchmarks import read_benchmark
from veritune.data.canonical import canonical_answer, canonical_question
from veritune.data.compared import Compared
from veritune.data.raw_rows import RawRow
from veritune.data.steps import StepCount
from veritune.progress import Reporter, Silent
from veritune.rows import Example

_FORMAT_SHARE = 0.3
_MIN_TASKS_FOR_FORMAT = 5
_MIN_NAMED_LEXEMES = 20
_MIN_NUMBERED_LEXEMES = 40
_N_LISTED = 1000
_SHOWN_CHARACTERS = 1000
_IS_WORD = re.compile(r"\w")


@dataclass(frozen=True, slots=True)
class Match:
    """A row that overlaps a benchmark's task.

    Attributes:
        row: place of the row.
        rule: the first rule that holds, as the module says.
        similarity: of an edit rule, else None.
        overlap: the longest run of words that both have.
    """

    row: int
    benchmark: str
    task: Example
    rule: str
    similarity: float | None
    overlap: str


def find_contamination(
    texts: Compared,
    rows: Sequence[RawRow],
    section: ContaminationSection,
    reporter: Reporter | None = None,
) -> list[Match]:
    """At most one match for each row, in the rows' order.

    Raises:
        DataError: a benchmark cannot be read.
        EnvironmentFault: a benchmark's package is not installed.
    """
    tasks = [
        (name, task, question)
        for name in dict.fromkeys(section.against)
        for task, question in _with_questions(read_benchmark(name))
    ]
    if not tasks:
        return []
    found: dict[int, Match] = {}
    with (reporter or Silent()).task("compare with benchmarks", 6) as progress:
        for rule, overlaps in _rules(texts, rows, tasks, section):
            for overlap in overlaps:
                name, task, _ = tasks[overlap.task]
                found.setdefault(
                    overlap.row,
                    Match(overlap.row, name, task, rule, overlap.similarity, overlap.shared),
                )
            progress.advance()
    return [found[row] for row in sorted(found)]


def contamination_step(n_rows: int, n_dropped: int, section: ContaminationSection) -> StepCount:
    """What the step did, for the card."""
    return StepCount(
        "drop_contaminated",
        f"drop rows that repeat a task of {', '.join(section.against)}",
        section.drop,
        0,
        n_dropped,
        n_rows - n_dropped,
    )


def describe_matches(
    matches: Sequence[Match],
    rows: Sequence[RawRow],
    leaving: set[int],
    section: ContaminationSection,
) -> dict[str, Any]:
    """The card's ``contamination``."""
    return {
        "against": list(section.against),
        "ngram": section.ngram,
        "edit_similarity": section.edit_similarity,
        "n_rows": len(matches),
        "n_dropped": len(leaving),
        "n_tasks": len({(match.benchmark, match.task.example_id) for match in matches}),
        "matches": [
            {
                "source": rows[match.row].source,
                "instruction": _cut(rows[match.row].instruction),
                "reference": _cut(rows[match.row].output),
                "dropped": match.row in leaving,
                "benchmark": match.benchmark,
                "task": match.task.example_id,
                "task_question": _cut(match.task.instruction),
                "rule": match.rule,
                "similarity": None if match.similarity is None else round(match.similarity, 4),
                "overlap": _cut(match.overlap),
            }
            for match in matches[:_N_LISTED]
        ],
    }


def _rules(
    texts: Compared,
    rows: Sequence[RawRow],
    tasks: Sequence[tuple[str, Example, str]],
    section: ContaminationSection,
) -> Iterator[tuple[str, Iterator[Overlap]]]:
    size, threshold = section.ngram, section.edit_similarity
    questions = [canonical_question(question, "").words for _, _, question in tasks]
    whole = [
        [*text.words, *canonical_question(row.output, "").words]
        for text, row in zip(texts.questions, rows, strict=True)
    ]
    yield "question_ngram", shared_runs(whole, questions, size)
    del whole

    own = texts.named_answers
    if own is None:
        raise ValueError("the rows were compared without their named answers")
    solutions = [canonical_answer(task.reference, rename=False).words for _, task, _ in tasks]
    yield "answer_ngram", shared_runs(list(map(_words, own)), list(map(_words, solutions)), size)

    asked = [text.words for text in texts.questions]
    yield "question_edit", similar_texts(asked, questions, threshold, size)
    short = [words if len(words) < size else [] for words in questions]
    yield "question_edit", similar_texts(asked, short, 1.0, 1)

    yield "answer_edit", similar_texts(own, solutions, threshold, _MIN_NAMED_LEXEMES)
    if not texts.renamed:
        return
    numbered = [text.words for text in texts.answers]
    solutions = [canonical_answer(task.reference).words for _, task, _ in tasks]
    yield "answer_edit", similar_texts(numbered, solutions, threshold, _MIN_NUMBERED_LEXEMES)


def _words(lexemes: Sequence[str]) -> list[str]:
    return [lexeme for lexeme in lexemes if _IS_WORD.match(lexeme)]


def _with_questions(tasks: Sequence[Example]) -> Iterator[tuple[Example, str]]:
    """Each task with its question's own lines."""
    n_tasks_with = Counter(
        line
        for task in tasks
        for line in {line.strip() for line in f"{task.instruction}\n{task.input}".splitlines()}
    )
    is_format = {
        line
        for line, count in n_tasks_with.items()
        if len(tasks) >= _MIN_TASKS_FOR_FORMAT and count > _FORMAT_SHARE * len(tasks)
    }
    for task in tasks:
        left_out = is_format | {test.strip() for test in task.tests}
        lines = f"{task.instruction}\n{task.input}".splitlines()
        yield task, "\n".join(line for line in lines if line.strip() not in left_out)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
