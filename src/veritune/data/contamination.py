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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from veritune.config import ContaminationSection
from veritune.data.benchmark_overlap import Overlap, shared_runs, similar_texts
from veritune.data.benchmarks import read_benchmark
from veritune.data.canonical import answer_forms, canonical_answer, canonical_question
from veritune.data.findings.masked import cut
from veritune.data.raw_rows import RawRow
from veritune.data.row_store import RowStore, rows_of
from veritune.data.steps import StepCount
from veritune.data.workers import Workers
from veritune.progress import Reporter, Silent
from veritune.rows import Example

_BATCH_ROWS = 8192
_MATCHES = pa.schema(
    [
        ("row", pa.int64()),
        ("task", pa.int64()),
        ("rule", pa.string()),
        ("similarity", pa.float64()),
        ("overlap", pa.large_string()),
    ]
)
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
    rows: Sequence[RawRow],
    section: ContaminationSection,
    *,
    rename: bool = True,
    reporter: Reporter | None = None,
    workers: Workers | None = None,
) -> list[Match]:
    """At most one match for each row, in the rows' order.

    Args:
        rename: number the answers' own names, as ``data.duplicates.rename_identifiers`` says.
        workers: share the work.

    Raises:
        DataError: a benchmark cannot be read.
        EnvironmentFault: a benchmark's package is not installed.
    """
    tasks = _tasks(section)
    if not tasks:
        return []
    found = []
    store = RowStore.of(rows)
    settings = {"section": section.model_dump(), "rename": rename}
    sizes: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in store.batches(_BATCH_ROWS):
            sizes.append(batch.num_rows)
            yield batch

    with (reporter or Silent()).task("compare with benchmarks", len(store)) as progress:
        results = (workers or Workers(1)).map(
            f"{__name__}:matcher", settings, batches(), len(store)
        )
        for number, matches in enumerate(results):
            first = sum(sizes[:number])
            for match in matches.to_pylist():
                name, task, _ = tasks[match.pop("task")]
                match["row"] += first
                found.append(Match(benchmark=name, task=task, **match))
            progress.advance(sizes[number])
    return found


def matcher(section: dict[str, Any], *, rename: bool) -> Callable[[pa.RecordBatch], Any]:
    """The work on one batch: the matches of its rows, which are numbered from 0."""
    settings = ContaminationSection(**section)
    tasks = _tasks(settings)

    def work(batch: pa.RecordBatch) -> pa.RecordBatch:
        found: dict[int, dict[str, Any]] = {}
        for rule, overlaps in _rules(rows_of(batch), tasks, settings, rename=rename):
            for overlap in overlaps:
                match = {
                    "row": overlap.row,
                    "task": overlap.task,
                    "rule": rule,
                    "similarity": overlap.similarity,
                    "overlap": overlap.shared,
                }
                found.setdefault(overlap.row, match)
        return pa.RecordBatch.from_pylist([found[row] for row in sorted(found)], schema=_MATCHES)

    return work


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
                "instruction": cut(rows[match.row].instruction, _SHOWN_CHARACTERS),
                "reference": cut(rows[match.row].output, _SHOWN_CHARACTERS),
                "dropped": match.row in leaving,
                "benchmark": match.benchmark,
                "task": match.task.example_id,
                "task_question": cut(match.task.instruction, _SHOWN_CHARACTERS),
                "rule": match.rule,
                "similarity": None if match.similarity is None else round(match.similarity, 4),
                "overlap": cut(match.overlap, _SHOWN_CHARACTERS),
            }
            for match in matches[:_N_LISTED]
        ],
    }


def _tasks(section: ContaminationSection) -> list[tuple[str, Example, str]]:
    """(benchmark, task, the task's own question)."""
    return [
        (name, task, question)
        for name in dict.fromkeys(section.against)
        for task, question in _with_questions(read_benchmark(name))
    ]


def _rules(
    rows: Sequence[RawRow],
    tasks: Sequence[tuple[str, Example, str]],
    section: ContaminationSection,
    *,
    rename: bool,
) -> Iterator[tuple[str, Iterator[Overlap]]]:
    size, threshold = section.ngram, section.edit_similarity
    questions = [canonical_question(question, "").words for _, _, question in tasks]
    asked = [canonical_question(row.instruction, row.input).words for row in rows]
    whole = [
        [*words, *canonical_question(row.output, "").words]
        for words, row in zip(asked, rows, strict=True)
    ]
    yield "question_ngram", shared_runs(whole, questions, size)
    del whole

    forms = [answer_forms(row.output, rename=rename) for row in rows]
    own = [named for _, named in forms]
    solutions = [canonical_answer(task.reference, rename=False).words for _, task, _ in tasks]
    yield "answer_ngram", shared_runs(list(map(_words, own)), list(map(_words, solutions)), size)

    yield "question_edit", similar_texts(asked, questions, threshold, size)
    short = [words if len(words) < size else [] for words in questions]
    yield "question_edit", similar_texts(asked, short, 1.0, 1)

    yield "answer_edit", similar_texts(own, solutions, threshold, _MIN_NAMED_LEXEMES)
    if not rename:
        return
    numbered = [form.words for form, _ in forms]
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
