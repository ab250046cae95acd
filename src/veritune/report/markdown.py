"""``report.md``: the essentials for a terminal, in well under two hundred lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from veritune.report.evidence import Evidence
from veritune.report.prompts import PromptColumn, Prompts
from veritune.report.training import LossRow, TrainingView
from veritune.report.view import View
from veritune.report.wording import DASH, one_line

_MOST_LOSS_ROWS = 15
_MOST_CASES = 10
_SPECIAL = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>|#&"})


def render_markdown(view: View) -> str:
    """The report as Markdown tables."""
    parts = [
        _headline(view),
        _evidence(view.evidence),
        _training(view.training),
        _prompts(view.prompts),
        _cases(view),
        _data(view),
        _health(view),
        _set_up(view),
        _limits(view),
    ]
    text = "\n\n".join(part.strip("\n") for part in parts if part)
    return f"{text}\n\nThe whole report, with figures and every answer: report.html\n"


def escape(text: object) -> str:
    """Text on one line in which no character means anything to Markdown."""
    return one_line(text, 240).translate(_SPECIAL)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], n_text: int = 1) -> str:
    """A Markdown table padded for reading as it is.

    Args:
        head: names of the columns.
        rows: escaped here.
        n_text: leading columns that hold text; the others are aligned right.
    """
    cells = [[escape(cell) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[place]) for row in cells)) for place in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if place < n_text else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if place < n_text else f"{'-' * (width - 1)}:"
        for place, width in enumerate(widths)
    ]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def _headline(view: View) -> str:
    head = view.headline
    lines = [
        f"# {head.symbol} {escape(head.badge)}",
        "",
        f"**{escape(head.sentence[:240])}{escape(head.sentence[240:480])}**",
        "",
        f"Veritune · {escape(head.run)} · {escape(head.date)}",
        "",
        *(
            f"- {term}: {escape(text)}{f' ({escape(note)})' if note else ''}"
            for term, text, note in head.facts
        ),
    ]
    if head.warnings or head.notices:
        lines += ["", *(f"> {escape(text)}" for text in (*head.warnings, *head.notices))]
    return "\n".join(lines)


def _evidence(evidence: Evidence | None) -> str:
    if evidence is None:
        return "## Differences\n\nThe systems have not been compared yet."
    head = ("adapted minus", "difference", "95 % interval", "p", "detectable", "verdict")
    by_system = table(
        head,
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
        ("test", *evidence.systems), ((name, *values) for name, values, _ in evidence.values)
    )
    return (
        f"## Differences\n\n{escape(evidence.primary)}, the primary metric:\n\n{by_system}\n\n"
        f"Against {escape(evidence.best)}, the best baseline:\n\n{by_metric}\n\n{values}"
    )


def _training(training: TrainingView | None) -> str:
    if training is None:
        return "## Training\n\nThe model has not been trained yet."
    parts = ["## Training", escape(training.sentence)]
    if training.rows:
        parts.append(
            table(
                ("Step", "Training Loss", "Validation Loss"),
                (
                    (
                        f"{row.step} (best)" if row.is_best else row.step,
                        row.training,
                        row.validation,
                    )
                    for row in _thinned(training.rows)
                ),
            )
        )
    if training.summary:
        parts.append(table(("summary", "value"), training.summary))
    return "\n\n".join(parts)


def _thinned(rows: list[LossRow]) -> list[LossRow]:
    stride = -(-len(rows) // _MOST_LOSS_ROWS)
    return [
        row
        for place, row in enumerate(rows)
        if row.is_best or place % stride == 0 or place == len(rows) - 1
    ]


def _prompts(prompts: Prompts | None) -> str:
    if prompts is None:
        return ""
    parts = ["## Training prompts and unseen ones"]
    if prompts.sentence:
        parts.append(escape(prompts.sentence))
    if prompts.columns:
        systems = [f"{name} {unit}" for name in prompts.labels for unit in ("r", "p", "f")]
        parts += [
            f"{column.title}, mean over {column.n_everything}:\n\n"
            + table(("ROUGE", *systems), _rouge_rows(column))
            + "\n\n"
            + table(
                ("", *prompts.labels),
                (
                    ("BLEU", *column.everything.bleu),
                    ("parses", *column.everything.parses),
                ),
            )
            for column in prompts.columns
        ]
    if prompts.gap:
        parts.append(
            table(
                (
                    "gap",
                    "base unseen",
                    "base training",
                    "adapted unseen",
                    "adapted training",
                    "gap",
                    "95 % interval",
                ),
                ((row.metric, *row.values, row.difference, row.interval) for row in prompts.gap),
            )
        )
    return "\n\n".join(parts)


def _rouge_rows(column: PromptColumn) -> list[list[str]]:
    return [
        [name, *(number for triple in triples for number in triple)]
        for name, triples in column.everything.rouge
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
        f"## Answers\n\n{cases.n_all:,} unseen questions, {cases.n_failing:,} adapted answers that"
        f" are not valid Python. The first {min(_MOST_CASES, len(cases.rows))} by failure, with"
        f" {escape(metric)} and whether the answer parses:\n\n"
        + table(("#", "question", *(label for _, label in cases.systems)), rows, n_text=2)
    )


def _data(view: View) -> str:
    if view.data is None:
        return "## Data\n\nThe data have not been prepared yet."
    origin = ", ".join(f"{name} {text}" for name, text in view.data.origin)
    splits = table(("split", "examples", "clusters", "references parse"), view.data.splits)
    counts = table(("count", "rows"), view.data.counts)
    return f"## Data\n\n{escape(origin)}\n\n{splits}\n\n{counts}"


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
    facts = table(("set-up", "value"), (*view.set_up.model, *view.set_up.machine), n_text=2)
    stages = table(("stage", "time", "tokens", "tokens/s"), view.set_up.stages)
    return f"## Set-up\n\n{facts}" + (f"\n\n{stages}" if view.set_up.stages else "")


def _limits(view: View) -> str:
    if not view.not_measured:
        return ""
    rows = "\n".join(f"- {escape(what)}: {escape(why)}" for what, why in view.not_measured)
    return f"## Not measured\n\n{rows}"
