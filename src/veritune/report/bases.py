"""The choice of the base model: each candidate before and after the same adaptation."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from veritune.report.load import RunFiles
from veritune.report.section import Section
from veritune.report.wording import (
    DASH,
    corpus,
    count,
    duration,
    fixed,
    is_number,
    mapping,
    memory,
    metric_label,
    one_line,
    plural,
    rows_of,
    significant,
)

_MEBIBYTE = 2**20


def make_bases(files: RunFiles) -> Section | None:
    """The section; None if the recipe names one base model."""
    found = mapping(files.details("bases") or files.manifest.get("bases"))
    rows = rows_of(found.get("rows"))
    if not rows:
        return None
    chosen = next((i for i, row in enumerate(rows) if row.get("name") == found.get("chosen")), None)
    has_peak = any(is_number(row.get("peak_memory_bytes")) for row in rows)
    metric = str(found.get("metric"))
    return Section(
        anchor="bases",
        title="Which base model",
        short="Base models",
        sentence=_sentence(found, rows, chosen),
        head=(
            "Base model",
            "Zero-shot",
            "95 % interval",
            "Adapted",
            "95 % interval",
            "Parameters",
            "Trained",
            "Training",
            "Tokens/s",
            *(["Peak memory"] if has_peak else []),
            "Adapter",
        ),
        rows=[
            (
                _name(row),
                *_value(metric, row.get("zero_shot")),
                *_value(metric, row.get("adapted")),
                count(row.get("total_parameters")),
                count(row.get("trainable_parameters")),
                duration(row.get("train_seconds")),
                significant(row.get("tokens_per_second")),
                *([memory(row.get("peak_memory_bytes"))] if has_peak else []),
                _size(row.get("adapter_bytes")),
            )
            for row in rows
        ],
        marked=chosen,
        note="All were adapted with the same recipe on the same rows and compared on validation;"
        " the interval is of the value itself. A choice among several makes the winner’s"
        " validation value look better than it is: test says what it is worth.",
    )


def _sentence(found: dict[str, Any], rows: list[dict[str, Any]], chosen: int | None) -> str:
    if chosen is None:
        return ""
    metric = str(found.get("metric"))
    value = corpus(metric, mapping(rows[chosen].get("adapted")).get("value"))
    questions = plural(found.get("n_validation"), "validation question")
    return (
        f"{_name(rows[chosen])} is the best of {plural(len(rows), 'base model')} once adapted:"
        f" {metric_label(metric)} {value} on {questions}. It became this run, and only its"
        " adapter answered test questions."
    )


def _name(row: dict[str, Any]) -> str:
    name = str(row.get("name", DASH))
    return one_line(row.get("folder") or name if PurePath(name).is_absolute() else name, 80)


def _value(metric: str, found: object) -> tuple[str, str]:
    value = mapping(found)
    low, high = value.get("ci_low"), value.get("ci_high")
    if not (is_number(low) and is_number(high)):
        return corpus(metric, value.get("value")), "not measured"
    return corpus(metric, value.get("value")), f"[{fixed(low)}, {fixed(high)}]"


def _size(value: object) -> str:
    if not is_number(value):
        return DASH
    return f"{value / _MEBIBYTE:.1f} MiB" if value >= _MEBIBYTE / 10 else f"{value / 1024:.1f} KiB"
