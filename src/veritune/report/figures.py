"""Figures as inline SVG, in percent of their width: they fit any page without scaling text.

Colours come from classes of the style sheet, so that one drawing serves light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from veritune.report.axes import Axis, axis_over, difference_axis, loss_axis

_TRACK = 34
_PLOT_TOP, _PLOT_HEIGHT, _PLOT_BOTTOM = 14, 230, 24
_BARS = 96


def interval_track(
    axis: Axis,
    value: float,
    low: float | None,
    high: float | None,
    *,
    mde: float | None,
    kind: str,
) -> Markup:
    """One row of a forest plot: the difference, its interval, what could not be detected.

    Args:
        axis: shared by all rows.
        value: the difference.
        low, high: its interval; without one the point is hollow.
        mde: half the width of the band around zero.
        kind: class that gives the colour.
    """
    middle = _TRACK / 2
    parts = [*_ticks(axis, _TRACK)]
    if mde is not None:
        left, right = axis.at(-mde), axis.at(mde)
        parts.append(
            f'<rect class="band" x="{left}%" width="{right - left:.3f}%" y="0" height="{_TRACK}"/>'
        )
    zero = axis.at(0)
    parts.append(f'<line class="zero" x1="{zero}%" x2="{zero}%" y1="0" y2="{_TRACK}"/>')
    if low is not None and high is not None:
        parts.append(_horizontal("range", axis.at(low), axis.at(high), middle))
        parts += [
            f'<line class="range" x1="{axis.at(end)}%" x2="{axis.at(end)}%"'
            f' y1="{middle - 5}" y2="{middle + 5}"/>'
            for end in (low, high)
        ]
    hollow = "" if low is not None else " hollow"
    parts.append(f'<circle class="point{hollow}" cx="{axis.at(value)}%" cy="{middle}" r="5"/>')
    return drawing(f"track {kind}", _TRACK, parts)


def axis_track(axis: Axis, unit: str = "") -> Markup:
    """The tick labels that go under the rows of a forest plot."""
    return drawing(
        "track axis",
        20,
        [
            f'<text x="{axis.at(tick)}%" y="14" text-anchor="middle">'
            f"{'+' if tick > 0 and axis.low < 0 else ''}{axis.label(tick)}{unit}</text>"
            for tick in axis.ticks
        ],
    )


def gap_track(axis: Axis, pairs: Sequence[tuple[str, float, float]]) -> Markup:
    """Unseen (hollow) to training (filled), one line for each system.

    Args:
        axis: shared by all rows.
        pairs: class, value on unseen prompts, value on training prompts.
    """
    parts = [*_ticks(axis, _TRACK + 6)]
    for place, (kind, unseen, seen) in enumerate(pairs):
        y = 11 + 18 * place
        parts += [
            f'<g class="{kind}">',
            _horizontal("range", axis.at(unseen), axis.at(seen), y),
            f'<circle class="point hollow" cx="{axis.at(unseen)}%" cy="{y}" r="4.5"/>',
            f'<circle class="point" cx="{axis.at(seen)}%" cy="{y}" r="4.5"/>',
            "</g>",
        ]
    return drawing("track", _TRACK + 6, parts)


def share_bar(value: float, kind: str) -> Markup:
    """A thin bar for a share on 0–100."""
    return drawing(
        f"share {kind}",
        6,
        [
            '<rect class="rail" x="0" width="100%" y="0" height="6" rx="3"/>',
            f'<rect class="fill" x="0" width="{min(100.0, max(0.0, value)):.2f}%" y="0"'
            ' height="6" rx="3"/>',
        ],
    )


def loss_plot(
    steps: Sequence[tuple[float, float]],
    training: Sequence[tuple[float, float]],
    validation: Sequence[tuple[float, float]],
    best: tuple[float, float] | None,
    description: str,
) -> Markup:
    """Losses over optimizer steps.

    Args:
        steps: (step, loss) as logged.
        training: (step, mean training loss since the evaluation before).
        validation: (step, validation loss).
        best: the evaluation with the lowest validation loss.
        description: what the figure shows, for those who cannot see it.
    """
    evaluated = [loss for _, loss in (*training, *validation)]
    logged = sorted(loss for _, loss in steps)
    # A first loss far above all others would press the rest flat; it leaves the plot instead.
    usual = logged[: max(1, round(0.98 * len(logged)))]
    losses = loss_axis([*evaluated, *usual])
    last = max((step for step, _ in (*steps, *training, *validation)), default=1.0)
    across = axis_over([0.0, last], 6)
    across = Axis(0.0, max(last, 1.0), tuple(tick for tick in across.ticks if tick <= last))

    def height(loss: float) -> float:
        return round(_PLOT_TOP + _PLOT_HEIGHT * (1 - losses.at(loss) / 100), 2)

    grid = [
        f'<line class="tick" x1="0" x2="100%" y1="{height(tick)}" y2="{height(tick)}"/>'
        for tick in losses.ticks
    ]
    lines = [
        _polyline("logged", _thinned(steps), losses, across),
        _polyline("training", training, losses, across),
        _polyline("validation", validation, losses, across),
    ]
    marks = [
        f'<circle class="dot {kind}" cx="{across.at(step)}%" cy="{height(loss)}" r="3"/>'
        for kind, points in (("training", training), ("validation", validation))
        for step, loss in (points if len(points) <= 40 else [])
    ]
    if best is not None:
        x = across.at(best[0])
        marks = [
            f'<line class="best" x1="{x}%" x2="{x}%" y1="{_PLOT_TOP}"'
            f' y2="{_PLOT_TOP + _PLOT_HEIGHT}"/>',
            *marks,
            f'<circle class="dot best" cx="{x}%" cy="{height(best[1])}" r="6"/>',
        ]
    labels = [
        f'<text x="{across.at(tick)}%" y="{_PLOT_TOP + _PLOT_HEIGHT + 18}"'
        f' text-anchor="{_anchor(across.at(tick))}">{across.label(tick)}</text>'
        for tick in across.ticks
    ]
    scales = [
        f'<text x="100%" y="{height(tick) + 4}" text-anchor="end">{losses.label(tick)}</text>'
        for tick in losses.ticks
    ]
    total = _PLOT_TOP + _PLOT_HEIGHT + _PLOT_BOTTOM
    inner = (
        f'<svg x="0" y="{_PLOT_TOP}" width="100%" height="{_PLOT_HEIGHT}"'
        f' viewBox="0 0 1000 1000" preserveAspectRatio="none">{"".join(lines)}</svg>'
    )
    return Markup('<div class="plot" role="img" aria-label="{}">{}{}</div>').format(
        description,
        drawing("scale", total, scales),
        drawing("area", total, [*grid, inner, *marks, *labels]),
    )


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    marks: Sequence[tuple[str, float]],
    *,
    kind: str,
    description: str,
) -> Markup:
    """Bars of equal width, one a bin; the last bin may hold everything longer.

    Args:
        edges: rising, one more than ``counts``.
        counts: rows in each bin.
        marks: labels and values of at most two vertical lines.
        kind: class that gives the colour.
        description: what the figure shows, for those who cannot see it.
    """
    highest, width = max(counts, default=0) or 1, 100 / max(1, len(counts))
    top = 18
    parts = []
    for index, n in enumerate(counts):
        tall = round(_BARS * n / highest, 2)
        parts.append(
            f'<rect class="bar" x="{index * width + width * 0.07:.3f}%"'
            f' width="{width * 0.86:.3f}%" y="{top + _BARS - tall:.2f}" height="{tall}">'
            f"<title>{_number(edges[index])} to {_number(edges[index + 1] - 1)}:"
            f" {_number(n)}</title></rect>"
        )
    parts.append(f'<line class="base" x1="0" x2="100%" y1="{top + _BARS}" y2="{top + _BARS}"/>')
    for (label, value), anchor, shift in zip(marks, ("end", "start"), (-4, 4), strict=False):
        x = _place_in_bins(edges, value)
        parts.append(
            f'<line class="mark" x1="{x}%" x2="{x}%" y1="4" y2="{top + _BARS}"/>'
            f'<text x="{x}%" dx="{shift}" y="12" text-anchor="{anchor}">{label}</text>'
        )
    labelled = sorted({0, len(counts) // 4, len(counts) // 2, 3 * len(counts) // 4})
    parts += [
        f'<text x="{index * width:.3f}%" y="{top + _BARS + 15}" text-anchor='
        f'"{_anchor(index * width)}">{_number(edges[index])}</text>'
        for index in labelled
    ]
    parts.append(
        f'<text x="100%" y="{top + _BARS + 15}" text-anchor="end">{_number(edges[-1] - 1)}</text>'
    )
    return Markup('<div class="bars {}" role="img" aria-label="{}">{}</div>').format(
        kind, description, drawing("area", top + _BARS + 20, parts)
    )


def forest_axis(rows: Sequence[tuple[float, float | None, float | None, float | None]]) -> Axis:
    """The axis that holds (value, low, high, mde) of all rows."""
    held = [value for value, *_ in rows]
    for value, low, high, mde in rows:
        held += [end for end in (low, high) if end is not None]
        # A band wider than everything else would press the intervals flat.
        if mde is not None and mde <= 2 * max(1.0, *(abs(x) for x in (value, low or 0, high or 0))):
            held += [-mde, mde]
    return difference_axis(held)


def _ticks(axis: Axis, height: float) -> list[str]:
    return [
        f'<line class="tick" x1="{axis.at(tick)}%" x2="{axis.at(tick)}%" y1="0" y2="{height}"/>'
        for tick in axis.ticks
    ]


def _horizontal(kind: str, left: float, right: float, y: float) -> str:
    return f'<line class="{kind}" x1="{left}%" x2="{right}%" y1="{y}" y2="{y}"/>'


def _polyline(kind: str, points: Sequence[tuple[float, float]], losses: Axis, across: Axis) -> str:
    # Not clamped: what is above the plot leaves it, cut off by the inner svg.
    span = losses.high - losses.low
    path = " ".join(
        f"{10 * across.at(step):.1f},{1000 * (losses.high - loss) / span:.1f}"
        for step, loss in points
    )
    return f'<polyline class="{kind}" vector-effect="non-scaling-stroke" points="{path}"/>'


def _thinned(
    points: Sequence[tuple[float, float]], most: int = 600
) -> Sequence[tuple[float, float]]:
    stride = -(-len(points) // most) or 1
    return points[::stride]


def _anchor(percent: float) -> str:
    return "start" if percent < 3 else "end" if percent > 97 else "middle"


def _place_in_bins(edges: Sequence[float], value: float) -> float:
    n_bins = len(edges) - 1
    for index in range(n_bins):
        if value < edges[index + 1]:
            share = (value - edges[index]) / max(1e-9, edges[index + 1] - edges[index])
            return round(100 * (index + max(0.0, share)) / n_bins, 3)
    return 100.0


def _number(value: float) -> str:
    return f"{value:,.0f}"


def drawing(kind: str, height: float, parts: Sequence[str]) -> Markup:
    """An SVG as wide as its place, from parts made of numbers and names of our own only."""
    return Markup(  # noqa: S704
        f'<svg class="{kind}" width="100%" height="{height}" aria-hidden="true"'
        f' focusable="false">{"".join(parts)}</svg>'
    )
