"""``report.md``: the essentials for a terminal, in well under two hundred lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from veritune.report.claims import ClaimRow
from veritune.report.evidence import Evidence
from veritune.report.prompts import PromptColumn, Prompts
from veritune.report.section import Section
from veritune.report.training import LossRow, TrainingView
from veritune.report.view import View
from veritune.report.wording import DASH, one_line

_MOST_LOSS_ROWS = 12
_MOST_CASES = 8
# What Markdown could act on inside a line; underscores within words and lone brackets cannot.
_ACTIVE = re.compile(
    r"[\\`*|]|<(?=[A-Za-z/!?])|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])|~(?=~)"
)
_OPENING = re.compile(r"^(?=[#>+\-=])")
_NUMERIC = re.compile(r"^([+−<\[]\s?)?\d|^\[[+−]|^–$")


def render_markdown(view: View) -> str:
    """The report as Markdown tables."""
    parts = [
        _headline(view),
        _evidence(view.evidence),
        *map(_section, view.running),
        *map(_section, view.trainings),
        _training(view.training),
        _claims(view.claims),
        _prompts(view.prompts),
        *map(_section, view.memory),
        _cases(view),
        _data(view),
        _health(view),
        _set_up(view),
        _limits(view),
    ]
    text = "\n\n".join(part.strip("\n") for part in parts if part)
    return f"{text}\n\nThe whole report, with figures and every answer: report.html\n"


def escape(text: object, limit: int = 240) -> str:
    """Text on one line in which no character means anything to Markdown."""
    return _ACTIVE.sub(r"\\\g<0>", one_line(text, limit))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table padded for reading as it is; columns of numbers are aligned right.

    Args:
        head: names of the columns.
        rows: escaped here.
    """
    cells = [[escape(cell) for cell in row] for row in (head, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    right = [_is_numeric(column[1:]) for column in columns]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        f"{'-' * (width - 1)}:" if is_right else "-" * width
        for width, is_right in zip(widths, right, strict=True)
    ]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def _is_numeric(cells: Sequence[str]) -> bool:
    return 2 * sum(bool(_NUMERIC.match(cell)) for cell in cells) > len(cells)


def _in_a_row(pairs: Iterable[tuple[str, str]]) -> str:
    return " · ".join(f"{escape(name)} {escape(text)}" for name, text in pairs)


def _headline(view: View) -> str:
    head = view.headline
    lines = [
        f"# {head.symbol} {escape(head.badge)}",
        "",
        escape(head.sentence, 1000),
        "",
        f"Veritune · {escape(head.run)} · {escape(head.date)}",
        "",
        *(
            f"- {term}: {escape(text)}{f' ({escape(note)})' if note else ''}"
            for term, text, note in head.facts
        ),
    ]
    notes = [_OPENING.sub(r"\\", escape(text, 500)) for text in (*head.warnings, *head.notices)]
    return "\n".join([*lines, "", "\n>\n".join(f"> {note}" for note in notes)])


def _evidence(evidence: Evidence | None) -> str:
    if evidence is None:
        return "## Differences\n\nThe systems have not been compared yet."
    by_system = table(
        ("adapted minus", "difference", "95 % interval", "p", "detectable", "verdict"),
        (
            (row.against, row.delta, row.interval, row.p_value, row.mde, row.verdict)
            for row in evidence.by_system.rows
        ),
    )
    by_metric = table(
        ("metric", "difference", "95 % interval", "p", "p, Holm", "verdict"),
        (
            (row.metric, row.delta, row.interval, row.p_value, row.p_holm, row.verdict)
            for row in evidence.by_metric.rows
        ),
    )
    values = table(
        ("test set", *evidence.systems), ((name, *values) for name, values, _ in evidence.values)
    )
    return (
        f"## Differences\n\n{escape(evidence.primary)}, the primary metric:\n\n{by_system}\n\n"
        f"Against {escape(evidence.best)}, the best baseline:\n\n{by_metric}\n\n{values}"
    )


def _section(section: Section) -> str:
    rows = [
        (f"{row[0]} ({section.mark})" if place == section.marked else row[0], *row[1:])
        for place, row in enumerate(section.rows)
    ]
    parts = [escape(section.sentence, 1000), table(section.head, rows), escape(section.note, 1000)]
    return "\n\n".join([f"## {escape(section.title)}", *(part for part in parts if part)])


def _training(training: TrainingView | None) -> str:
    if training is None:
        return "## Training\n\nThe model has not been trained yet."
    parts = ["## Training", escape(training.sentence, 500)]
    if training.rows:
        parts.append(
            table(
                ("Step", "Training Loss", "Validation Loss"),
                (
                    (f"{row.step}{' (best)' if row.is_best else ''}", row.training, row.validation)
                    for row in _thinned(training.rows)
                ),
            )
        )
    if training.summary:
        parts.append(_in_a_row(training.summary))
    return "\n\n".join(parts)


def _thinned(rows: list[LossRow]) -> list[LossRow]:
    stride = -(-len(rows) // _MOST_LOSS_ROWS)
    return [
        row
        for place, row in enumerate(rows)
        if row.is_best or place % stride == 0 or place == len(rows) - 1
    ]


def _claims(claims: Sequence[ClaimRow]) -> str:
    if not claims:
        return ""
    head = ("claim", "LoRA", "against", "ratio or difference", "95 % interval", "what came out")
    rows = (
        (
            *(row.claim, row.ours, row.against, row.change, row.interval),
            f"{row.said}; {row.note}" if row.note else row.said,
        )
        for row in claims
    )
    return f"## What LoRA promised\n\n{table(head, rows)}"


def _prompts(prompts: Prompts | None) -> str:
    if prompts is None:
        return ""
    parts = ["## Training prompts and unseen ones"]
    if prompts.sentence:
        parts.append(escape(prompts.sentence, 500))
    if prompts.columns:
        rouge = (f"{name} {kind}" for name in ("R-1", "R-2", "R-L") for kind in ("r", "p", "f"))
        parts.append(
            table(
                ("mean over", "system", "parses", "BLEU", *rouge),
                (
                    row
                    for column in prompts.columns
                    for row in _average_rows(column, prompts.labels)
                ),
            )
        )
    if prompts.gap:
        head = ("", "base unseen", "base training", "adapted unseen", "adapted training", "gap")
        parts.append(
            table(
                (*head, "95 % interval"),
                ((row.metric, *row.values, row.difference, row.interval) for row in prompts.gap),
            )
        )
    return "\n\n".join(parts)


def _average_rows(column: PromptColumn, labels: Sequence[str]) -> list[list[str]]:
    scores = column.everything
    return [
        [
            f"{column.title} ({column.n_everything})",
            label,
            scores.parses[place],
            scores.bleu[place],
            *(number for _, triples in scores.rouge for number in triples[place]),
        ]
        for place, label in enumerate(labels)
    ]


def _cases(view: View) -> str:
    cases = view.cases
    if cases is None:
        return ""
    rows = (
        (
            case.place,
            one_line(case.title, 60),
            *(f"{cell.value} {cell.outcome.symbol}" for cell in case.cells),
        )
        for case in cases.rows[:_MOST_CASES]
    )
    metric = cases.metrics[0][1] if cases.metrics else "score"
    return (
        f"## Answers\n\n{escape(cases.sentence)} Failures first, with"
        f" {escape(metric)} and whether the answer parses:\n\n"
        + table(("#", "question", *(label for _, label in cases.systems)), rows)
    )


def _data(view: View) -> str:
    if view.data is None:
        return "## Data\n\nThe data have not been prepared yet."
    splits = table(("split", "examples", "clusters", "references parse"), view.data.splits)
    counts = " · ".join(f"{escape(name)}: {value}" for name, value in view.data.counts)
    text = f"## Data\n\n{_in_a_row(view.data.origin)}\n\n{splits}\n\n{counts}"
    leaks = view.data.leaks
    if leaks is None:
        return text
    columns = ("near-copies of training among", "by", "similarity 0.7 or more", "0.9", "equal")
    contamination = f"\n\n{escape(leaks.contamination)}" if leaks.contamination else ""
    return f"{text}\n\n{table(columns, leaks.shares)}{contamination}"


def _health(view: View) -> str:
    if not view.health:
        return ""
    head = ("system", "answers", *(label for label, _ in view.health[0].shares), "mean tokens")
    rows = (
        (
            row.system,
            row.n,
            *(DASH if value is None else f"{value:.1f} %" for _, value in row.shares),
            row.mean_new_tokens,
        )
        for row in view.health
    )
    return f"## How the answers ended\n\n{table(head, rows)}"


def _set_up(view: View) -> str:
    parts = [
        _in_a_row(pairs)
        for pairs in (view.set_up.model, view.set_up.machine, view.set_up.versions)
        if pairs
    ]
    if view.set_up.stages:
        parts.append(table(("stage", "time", "tokens", "tokens/s"), view.set_up.stages))
    return "\n\n".join(["## Set-up", *parts])


def _limits(view: View) -> str:
    if not view.not_measured:
        return ""
    rows = "\n".join(f"- {escape(what)}: {escape(why, 500)}" for what, why in view.not_measured)
    return f"## Not measured\n\n{rows}"
