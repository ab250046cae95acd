"""Every unseen question with every system's answer, failures first."""

from __future__ import annotations

import json
from dataclasses import dataclass

from markupsafe import Markup

from veritune.report.answers import (
    Outcome,
    ShownAnswer,
    outcome_of,
    question_of,
    reference_outcome,
    scores_of,
    values_of,
)
from veritune.report.highlight import LONGEST_SHOWN, Highlighter, clip
from veritune.report.load import RunFiles
from veritune.report.wording import (
    count,
    fixed,
    metric_label,
    one_line,
    plural,
    system_label,
    visible,
)
from veritune.rows import Example, Prediction
from veritune.score import METRICS
from veritune.score.code import is_empty

MAX_ROWS = 1000
MAX_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Cell:
    """One system's result in the compact row."""

    value: str
    outcome: Outcome


@dataclass(frozen=True)
class Case:
    """One question.

    Attributes:
        place: position in the data.
        title: the question on one line.
        question: the whole question, where the title is not all of it.
        cells: one for each system.
        values: JSON, for each system the metrics in the order of ``Cases.metrics``.
        outcomes: words to filter by, for each system.
        reference: highlighted; None where the page's limit was reached.
    """

    place: int
    example_id: str
    source: str
    title: str
    question: str
    cells: list[Cell]
    values: str
    outcomes: str
    reference: Markup | None
    reference_outcome: Outcome
    answers: list[ShownAnswer]


@dataclass(frozen=True)
class Cases:
    """Section 6.

    Attributes:
        systems: (name, label) of the columns.
        metrics: (name, label) in the order of ``Case.values``.
        sentence: how many questions were asked, and on how many the first system fails.
        limits: plain sentences on what this page leaves out and where to find it.
    """

    systems: list[tuple[str, str]]
    metrics: list[tuple[str, str]]
    primary: str
    rows: list[Case]
    sentence: str
    limits: list[str]


def make_cases(files: RunFiles, highlight: Highlighter) -> Cases | None:
    """Section 6; None if no unseen question was answered."""
    systems = files.systems
    asked = [
        (place, example)
        for place, example in enumerate(files.examples.get("test", []), start=1)
        if any(example.example_id in answers for answers in files.predictions.values())
    ]
    if not asked:
        return None
    first = systems[0]
    outcomes = {
        example.example_id: {
            name: outcome_of(
                files.predictions[name].get(example.example_id),
                scores_of(files, example.example_id, name),
            )
            for name in systems
        }
        for _, example in asked
    }

    def failures_first(item: tuple[int, Example]) -> tuple[bool, float, int]:
        place, example = item
        values = values_of(scores_of(files, example.example_id, first))
        parses = outcomes[example.example_id][first].word == "parses"
        return parses, values.get(files.primary_metric, 0.0), place

    asked.sort(key=failures_first)
    metrics = _metrics(files)
    page = _Page(files, metrics, highlight, MAX_CHARACTERS)
    rows = [
        page.case(place, example, outcomes[example.example_id])
        for place, example in asked[:MAX_ROWS]
    ]
    return Cases(
        systems=[(name, system_label(name)) for name in systems],
        metrics=[(name, metric_label(name)) for name in metrics],
        primary=files.primary_metric,
        rows=rows,
        sentence=_sentence(first, [row[first] for row in outcomes.values()]),
        limits=_limits(len(asked), rows, highlight),
    )


def _sentence(system: str, outcomes: list[Outcome]) -> str:
    failing = sum(outcome.word != "parses" for outcome in outcomes)
    claim = f"no valid Python on {count(failing)} of them" if failing else "valid Python on each"
    asked = plural(len(outcomes), "unseen question")
    return f"{asked}; {system_label(system).lower()} gives {claim}."


class _Page:
    """Makes cases until the page holds as many characters as it may."""

    def __init__(
        self, files: RunFiles, metrics: list[str], highlight: Highlighter, characters: int
    ) -> None:
        self.files = files
        self.metrics = metrics
        self.highlight = highlight
        self.left = characters

    def case(self, place: int, example: Example, outcomes: dict[str, Outcome]) -> Case:
        files = self.files
        example_id = example.example_id
        values = {name: values_of(scores_of(files, example_id, name)) for name in outcomes}
        answers = {name: files.predictions[name].get(example_id) for name in outcomes}
        question = question_of(example.instruction, example.input)
        title = one_line(question, 140)
        is_inlined = self._take(
            question, example.reference, *(row.code for row in answers.values() if row)
        )
        return Case(
            place=place,
            example_id=visible(example_id),
            source=one_line(example.source, 80),
            title=title,
            question=clip(question) if is_inlined and clip(question) != title else "",
            cells=[
                Cell(fixed(values[name].get(files.primary_metric)), outcome)
                for name, outcome in outcomes.items()
            ],
            values=json.dumps(
                [[_rounded(row.get(metric)) for metric in self.metrics] for row in values.values()],
                separators=(",", ":"),
            ),
            outcomes=json.dumps([_words(outcome) for outcome in outcomes.values()]),
            reference=self.highlight(example.reference) if is_inlined else None,
            reference_outcome=reference_outcome(example.reference),
            answers=[
                self._answer(name, answers[name], outcome, values[name])
                for name, outcome in (outcomes.items() if is_inlined else ())
            ],
        )

    def _answer(
        self,
        system: str,
        prediction: Prediction | None,
        outcome: Outcome,
        values: dict[str, float],
    ) -> ShownAnswer:
        code = "" if prediction is None else prediction.code
        has_tokens = prediction is not None and prediction.finish_reason != "retrieved"
        return ShownAnswer(
            label=system_label(system),
            system=system,
            code=self.highlight(code),
            is_empty=is_empty(code),
            outcome=outcome,
            metrics=[
                (metric_label(name), _in_words(name, values.get(name)))
                for name in self.metrics
                if name != "parse_rate"
            ],
            tokens=plural(prediction.n_new_tokens, "token") if prediction and has_tokens else "",
        )

    def _take(self, *texts: str) -> bool:
        needed = sum(min(len(text), LONGEST_SHOWN) for text in texts)
        if needed > self.left:
            return False
        self.left -= needed
        return True


def _metrics(files: RunFiles) -> list[str]:
    found = {name for row in files.scores.values() for name in row}
    order = [*(name for name in METRICS if name in found), *sorted(found - METRICS.keys())]
    return sorted(order, key=lambda name: name != files.primary_metric)


def _in_words(metric: str, value: float | None) -> str:
    if metric in METRICS and METRICS[metric].binary and value is not None:
        return "yes" if value > 0 else "no"
    return fixed(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _words(outcome: Outcome) -> str:
    word = "fails" if outcome.word == "does not parse" else outcome.word
    return f"{word} cut" if outcome.is_cut else word


def _limits(n_asked: int, rows: list[Case], highlight: Highlighter) -> list[str]:
    limits = []
    where = "predictions/*.jsonl and data/test.parquet of the run directory"
    if n_asked > len(rows):
        limits.append(
            f"This page lists the first {len(rows):,} of {n_asked:,} questions, failures first;"
            f" the others are in {where}."
        )
    bare = sum(row.reference is None for row in rows)
    if bare:
        limits.append(
            f"To stay quick, {bare:,} rows come without the answers' text;"
            f" every answer is in {where}."
        )
    elif highlight.is_used_up:
        limits.append("To stay quick, the code further down is shown without colours.")
    return limits
