"""The learning curve: quality against the number of training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from veritune.report.axes import Axis, axis_over
from veritune.report.figures import drawing
from veritune.report.load import RunFiles
from veritune.report.section import Section
from veritune.report.wording import (
    corpus,
    count,
    fixed,
    is_number,
    mapping,
    metric_label,
    rows_of,
    visible,
)

_TOP, _HEIGHT, _BOTTOM = 14, 230, 24
_LABEL_PERCENT = 9.0


def make_curve(files: RunFiles) -> Section | None:
    """The section; None if no curve was asked for."""
    found = mapping(files.details("learning_curve"))
    rows = [
        row
        for row in rows_of(found.get("rows"))
        if is_number(row.get("n_rows")) and row["n_rows"] > 0 and is_number(row.get("value"))
    ]
    if len(rows) < 2:
        return None
    metric, zero_shot = str(found.get("metric")), found.get("zero_shot")
    has_retrieval = any(is_number(row.get("retrieval")) for row in rows)
    label, sentence = metric_label(metric), visible(found.get("sentence") or "")
    legend = [("adapted", f"adapted, {label} with 95 % interval")]
    if has_retrieval:
        legend.append(("retrieval", "retrieval from the same rows"))
    if is_number(zero_shot):
        legend.append(("zero-shot", f"base, zero-shot ({corpus(metric, zero_shot)})"))
    return Section(
        anchor="curve",
        title="Would more data help?",
        short="Learning curve",
        sentence=sentence,
        head=(
            "Training rows",
            "Adapted",
            "95 % interval",
            *(["Retrieval"] if has_retrieval else []),
        ),
        rows=[
            (
                count(row["n_rows"]),
                corpus(metric, row["value"]),
                _interval(row),
                *([corpus(metric, row.get("retrieval"))] if has_retrieval else []),
            )
            for row in rows
        ],
        marked=len(rows) - 1,
        note="Each size is trained once, with the same recipe and as many epochs, so fewer rows"
        " also mean fewer steps. Smaller sets are part of the larger ones. The answer rests on"
        " the paired difference of the two largest; it does not count the luck of a training.",
        figure=_figure(rows, zero_shot, f"{label} by number of training rows. {sentence}"),
        legend=legend,
    )


def _interval(row: dict[str, Any]) -> str:
    low, high = row.get("ci_low"), row.get("ci_high")
    if not (is_number(low) and is_number(high)):
        return "not measured"
    return f"[{fixed(low)}, {fixed(high)}]"


def _figure(rows: Sequence[dict[str, Any]], zero_shot: object, description: str) -> Markup:
    """Lines over a logarithmic axis of rows, with whiskers; the table has the numbers."""
    held = [row[key] for row in rows for key in ("value", "ci_low", "ci_high", "retrieval")
            if is_number(row.get(key))]  # fmt: skip
    values = axis_over([*held, *([float(zero_shot)] if is_number(zero_shot) else [])], 5)
    sizes = [math.log(row["n_rows"]) for row in rows]
    across = Axis(min(sizes), max(*sizes, min(sizes) + 1e-9), (), 3.0)

    def x(row: dict[str, Any]) -> float:
        return across.at(math.log(row["n_rows"]))

    def y(value: float) -> float:
        return round(_TOP + _HEIGHT * (1 - values.at(value) / 100), 2)

    def line(kind: str, key: str) -> str:
        points = " ".join(
            f"{10 * x(row):.1f},{1000 - 10 * values.at(row[key]):.1f}"
            for row in rows
            if is_number(row.get(key))
        )
        return f'<polyline class="{kind}" vector-effect="non-scaling-stroke" points="{points}"/>'

    parts = [
        f'<line class="tick" x1="0" x2="100%" y1="{y(tick)}" y2="{y(tick)}"/>'
        for tick in values.ticks
    ]
    if is_number(zero_shot):
        height = y(zero_shot)
        parts.append(f'<line class="zero-shot" x1="0" x2="100%" y1="{height}" y2="{height}"/>')
    parts.append(
        f'<svg x="0" y="{_TOP}" width="100%" height="{_HEIGHT}" viewBox="0 0 1000 1000"'
        f' preserveAspectRatio="none">{line("retrieval", "retrieval")}{line("adapted", "value")}'
        "</svg>"
    )
    for row in rows:
        low, high = row.get("ci_low"), row.get("ci_high")
        if is_number(low) and is_number(high):
            parts.append(
                f'<line class="whisker" x1="{x(row)}%" x2="{x(row)}%" y1="{y(low)}"'
                f' y2="{y(high)}"/>'
            )
        if is_number(row.get("retrieval")):
            parts.append(
                f'<circle class="dot retrieval" cx="{x(row)}%" cy="{y(row["retrieval"])}" r="3"/>'
            )
        parts.append(f'<circle class="dot adapted" cx="{x(row)}%" cy="{y(row["value"])}" r="4.5"/>')
    parts += [
        f'<text x="{x(row)}%" y="{_TOP + _HEIGHT + 18}" text-anchor="{_anchor(x(row))}">'
        f"{count(row['n_rows'])}</text>"
        for row in _labelled(rows, x)
    ]
    scale = [
        f'<text x="100%" y="{y(tick) + 4}" text-anchor="end">{values.label(tick)}</text>'
        for tick in values.ticks
    ]
    total = _TOP + _HEIGHT + _BOTTOM
    return Markup('<div class="plot" role="img" aria-label="{}">{}{}</div>').format(
        description, drawing("scale", total, scale), drawing("area", total, parts)
    )


def _labelled(rows: Sequence[dict[str, Any]], x: Any) -> list[dict[str, Any]]:
    """The sizes whose labels have room, the largest first."""
    kept: list[dict[str, Any]] = []
    for row in reversed(rows):
        if not kept or x(kept[-1]) - x(row) >= _LABEL_PERCENT:
            kept.append(row)
    return kept


def _anchor(percent: float) -> str:
    return "end" if percent > 95 else "middle"
