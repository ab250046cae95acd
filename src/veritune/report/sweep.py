"""The sweep in words and rows: what was tried, what was chosen, and what that choice is worth."""

from __future__ import annotations

from typing import Any

from veritune.report.load import RunFiles
from veritune.report.section import Section
from veritune.report.wording import (
    DASH,
    corpus,
    count,
    fixed,
    is_number,
    mapping,
    metric_label,
    one_line,
    plural,
    rows_of,
    significant,
)

NOTE = (
    "All were trained on the same rows with the same seed and compared on validation; stopped ones"
    " lost at a rung of successive halving. The lowest of many losses is low by luck, too: the"
    " winner’s validation loss looks better than it is, and only test says what it is worth."
)


def make_sweep(files: RunFiles) -> Section | None:
    """The section; None if the run was not chosen by a sweep."""
    found = mapping(files.details("sweep") or files.manifest.get("sweep"))
    rows = rows_of(found.get("rows"))
    if not rows:
        return None
    head, cells = sweep_rows(found, rows)
    total = found.get("n_configurations")
    more = is_number(total) and total > len(rows)
    return Section(
        anchor="sweep",
        title="Chosen among many settings",
        short="Sweep",
        sentence=sweep_sentence(found),
        head=head,
        rows=cells,
        marked=next(
            (i for i, r in enumerate(rows) if r.get("number") == found.get("chosen")), None
        ),
        note=(f"The best {len(rows)} are shown; sweep.html has all. " if more else "") + NOTE,
    )


def sweep_sentence(found: dict[str, Any]) -> str:
    """How many were tried, by what the winner was chosen, and that it alone saw test."""
    total = plural(found.get("n_configurations"), "configuration")
    chosen = settings_text(mapping(found.get("settings")))
    loss = fixed(found.get("validation_loss"), 4)
    if found.get("select") == "primary_metric":
        metric = metric_label(str(found.get("metric")))
        how = (
            f"{metric} on {plural(found.get('n_asked'), 'validation question')} among the best by"
            " validation loss"
        )
    else:
        how = f"validation loss ({loss} on {plural(found.get('n_validation'), 'row')})"
    return (
        f"Chosen among {total} by {how}: {chosen}. Only the winner answered test questions, once."
    )


def sweep_rows(
    found: dict[str, Any], rows: list[dict[str, Any]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and cells of the table, one row for each configuration."""
    keys = list(mapping(rows[0].get("settings")))
    has_metric = any(row.get("metric") for row in rows)
    metric = str(found.get("metric"))
    head = (
        "Rank",
        *(one_line(key) for key in keys),
        "Validation loss",
        *([metric_label(metric)] if has_metric else []),
        "Steps",
        "Outcome",
    )
    cells = []
    for row in rows:
        settings = mapping(row.get("settings"))
        outcome = one_line(row.get("status", DASH))
        if row.get("reason"):
            outcome = f"{outcome}: {one_line(row['reason'])}"
        value = mapping(row.get("metric")).get("value")
        cells.append(
            (
                count(row.get("rank")),
                *(value_text(settings.get(key)) for key in keys),
                fixed(row.get("validation_loss"), 4),
                *([corpus(metric, value)] if has_metric else []),
                f"{count(row.get('steps'))} of {count(row.get('n_steps'))}",
                outcome,
            )
        )
    return head, cells


def settings_text(settings: dict[str, Any]) -> str:
    """On one line, such as ``lora.r 4, train.learning_rate 0.001``."""
    return ", ".join(f"{one_line(key)} {value_text(value)}" for key, value in settings.items())


def value_text(value: object) -> str:
    """One setting's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, list):
        return one_line(", ".join(map(str, value)), 60)
    return significant(value) if is_number(value) else one_line(value, 60)
