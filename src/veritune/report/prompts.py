"""The table of the work this grew from, on training prompts and on unseen ones.

Prompt, generated code, sentence BLEU, ROUGE-1/2/L with recall, precision and F, for the base
model and the adapted one, the averages, and the column that table lacked: does it parse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from veritune.report.answers import (
    ROUGES,
    Outcome,
    outcome_of,
    question_of,
    reference_outcome,
    rouge_of,
    scores_of,
)
from veritune.report.axes import share_axis
from veritune.report.figures import axis_track, gap_track
from veritune.report.highlight import clip
from veritune.report.load import RunFiles
from veritune.report.wording import (
    as_points,
    corpus,
    fixed,
    interval,
    is_number,
    mapping,
    metric_label,
    percent,
    rows_of,
    signed,
    system_label,
    visible,
)
from veritune.rows import Example

N_SHOWN = 4
SYSTEMS = ("baseline", "adapted")

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class ScoreTable:
    """BLEU, ROUGE and whether it parses, one column group a system, in the order of SYSTEMS.

    Attributes:
        parses: text of each system.
        runs: what came of running each system's answer; empty where nothing was run.
        bleu: sentence BLEU of each system, 0–100.
        rouge: label, and recall, precision and F of each system, 0–1.
    """

    parses: list[str]
    runs: list[str]
    bleu: list[str]
    rouge: list[tuple[str, list[Triple]]]


@dataclass(frozen=True)
class PromptCard:
    """One prompt with the answers of both systems."""

    question: str
    reference: Markup
    reference_outcome: Outcome
    answers: list[tuple[str, str, Markup, Outcome]]
    scores: ScoreTable


@dataclass(frozen=True)
class PromptColumn:
    """The prompts of one split.

    Attributes:
        cards: the first prompts that were answered.
        shown, everything: averages over the cards, and over all prompts of the split.
        n_everything: number of prompts of the split that both systems answered.
    """

    split: str
    title: str
    cards: list[PromptCard]
    shown: ScoreTable
    everything: ScoreTable
    n_everything: int


@dataclass(frozen=True)
class GapRow:
    """One metric of the memorisation gap."""

    metric: str
    values: list[str]
    difference: str
    interval: str
    is_sure: bool
    figure: Markup


@dataclass(frozen=True)
class Prompts:
    """Section 5."""

    labels: list[str]
    columns: list[PromptColumn]
    gap: list[GapRow]
    gap_axis: Markup
    n_train: str
    n_test: str
    sentence: str
    rates: list[tuple[str, str, str]]


def make_prompts(files: RunFiles, highlight: Callable[[str], Markup]) -> Prompts | None:
    """Section 5; None if neither system answered anything."""
    columns = [
        column
        for split, title in (("train", "Training prompts"), ("test", "Unseen prompts"))
        if (column := _column(files, split, title, highlight))
    ]
    gap = rows_of(files.details("gap"))
    if not columns and not gap:
        return None
    rates = mapping(files.details("memorisation"))
    return Prompts(
        labels=[system_label(name) for name in SYSTEMS],
        columns=columns,
        gap=[_gap_row(row) for row in gap],
        gap_axis=axis_track(share_axis()),
        n_train=str(gap[0].get("n_train", "–")) if gap else "–",
        n_test=str(gap[0].get("n_test", "–")) if gap else "–",
        sentence=visible(rates.get("sentence") or ""),
        rates=[
            (label, percent(rates.get(f"{name}_train")), percent(rates.get(f"{name}_test")))
            for name, label in (
                ("exact_rate", "the reference, character for character"),
                ("ast_rate", "the reference, as a syntax tree"),
            )
            if f"{name}_train" in rates
        ],
    )


def _column(
    files: RunFiles, split: str, title: str, highlight: Callable[[str], Markup]
) -> PromptColumn | None:
    answered = [
        example
        for example in files.examples.get(split, [])
        if all(example.example_id in files.predictions.get(name, {}) for name in SYSTEMS)
    ]
    if not answered:
        return None
    shown = answered[:N_SHOWN]
    return PromptColumn(
        split=split,
        title=title,
        cards=[_card(files, example, highlight) for example in shown],
        shown=_averages(files, shown),
        everything=_averages(files, answered),
        n_everything=len(answered),
    )


def _card(files: RunFiles, example: Example, highlight: Callable[[str], Markup]) -> PromptCard:
    answers = []
    for name in SYSTEMS:
        prediction = files.predictions[name][example.example_id]
        outcome = outcome_of(prediction, scores_of(files, example.example_id, name))
        answers.append((system_label(name), name, highlight(prediction.code), outcome))
    return PromptCard(
        question=clip(question_of(example.instruction, example.input)),
        reference=highlight(example.reference),
        reference_outcome=reference_outcome(example.reference),
        answers=answers,
        scores=_averages(files, [example]),
    )


def _averages(files: RunFiles, examples: Sequence[Example]) -> ScoreTable:
    """Means over examples; of one example these are its own numbers."""
    parses, runs, bleu = [], [], []
    rouge: dict[str, list[Triple]] = {name: [] for name in ROUGES}
    for system in SYSTEMS:
        scores = [scores_of(files, example.example_id, system) for example in examples]
        outcomes = [
            outcome_of(files.predictions[system].get(example.example_id), row)
            for example, row in zip(examples, scores, strict=True)
        ]
        hits = sum(outcome.word == "parses" for outcome in outcomes)
        parses.append(
            f"{outcomes[0].symbol} {outcomes[0].word}"
            if len(examples) == 1
            else percent(100 * hits / len(examples))
        )
        ran = [row["runs_clean"] for row in scores if "runs_clean" in row]
        if ran and len(ran) == len(examples):
            runs.append(
                ran[0].outcome.replace("_", " ")
                if len(ran) == 1
                else percent(100 * sum(row.value for row in ran) / len(ran))
            )
        values = [as_points("bleu", row["bleu"].value) for row in scores if "bleu" in row]
        bleu.append(fixed(_mean(values)))
        for name in ROUGES:
            triples = [rouge_of(row, name) for row in scores if name in row]
            rouge[name].append(
                (
                    fixed(_mean([triple.recall for triple in triples]), 2),
                    fixed(_mean([triple.precision for triple in triples]), 2),
                    fixed(_mean([triple.f for triple in triples]), 2),
                )
            )
    runs = runs if len(runs) == len(SYSTEMS) else []
    return ScoreTable(parses, runs, bleu, [(metric_label(name), rouge[name]) for name in ROUGES])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if is_number(value)]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _gap_row(row: dict[str, object]) -> GapRow:
    metric = str(row.get("metric"))
    names = ("baseline_test", "baseline_train", "adapted_test", "adapted_train")
    values = [row.get(name) for name in names]
    numbers = [value for value in values if is_number(value)]
    low, high = row.get("ci_low"), row.get("ci_high")
    figure = Markup("")
    if len(numbers) == 4:
        pairs = [("is-adapted", numbers[2], numbers[3]), ("is-baseline", numbers[0], numbers[1])]
        figure = gap_track(share_axis(), pairs)
    return GapRow(
        metric=metric_label(metric),
        values=[corpus(metric, value) for value in values],
        difference=signed(row.get("difference")),
        interval=interval(low, high),
        is_sure=is_number(low) and is_number(high) and (low > 0 or high < 0),
        figure=figure,
    )
