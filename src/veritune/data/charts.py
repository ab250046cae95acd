"""The card's plots as inline SVG, in percent of their width: they fit any page.

Colours come from classes of the style sheet, so that one drawing serves light and dark.  All
that is put into a drawing are numbers and names of our own; descriptions are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from veritune.visible_text import visible

_TOP, _TALL, _BELOW = 6, 96, 22
_PLOT = 190
_N_LABELS = 7

Point = tuple[float, float]


def columns(
    labels: Sequence[str],
    counts: Sequence[int],
    kind: str,
    description: str,
    ticks: Sequence[str] | None = None,
) -> Markup:
    """Bars of equal width, one a label; every so many have their label printed.

    Args:
        ticks: shorter labels to print.
        kind: class that gives the colour.
        description: what the figure shows, for those who cannot see it.
    """
    highest, width = max(counts, default=0) or 1, 100 / max(1, len(counts))
    base = _TOP + _TALL
    parts = []
    for place, (label, n) in enumerate(zip(labels, counts, strict=True)):
        tall = max(1.0 if n else 0.0, _TALL * n / highest)
        parts.append(
            f'<rect class="bar" x="{place * width + width * 0.08:.3f}%" width="{width * 0.84:.3f}%"'
            f' y="{base - tall:.2f}" height="{tall:.2f}">'
            f"<title>{escape(visible(label))}: {n:,}</title></rect>"
        )
    parts.append(f'<line class="base" x1="0" x2="100%" y1="{base}" y2="{base}"/>')
    every = math.ceil(len(labels) / _N_LABELS)
    parts += [
        f'<text x="{(place + 0.5) * width:.3f}%" y="{base + 16}" text-anchor="middle">'
        f"{escape(visible(label))}</text>"
        for place, label in enumerate(ticks or labels)
        if place % every == 0
    ]
    return _figure("bars", kind, description, _drawing(base + _BELOW, parts))


def share(n: int, of: int) -> Markup:
    """A thin bar for a part of a whole."""
    width = 100 * n / of if of else 0
    return _drawing(
        6,
        [
            '<rect class="rail" width="100%" height="6" rx="3"/>',
            f'<rect class="fill" width="{width:.2f}%" height="6" rx="3"/>',
        ],
        "share",
    )


def curves(
    series: Sequence[tuple[str, Sequence[Point]]], *, logarithmic: bool, description: str
) -> Markup:
    """Lines over two axes that start at 0, or at 1 where both are logarithmic.

    Args:
        series: class that gives the colour, and (x, y) points.
    """
    points = [point for _, line in series for point in line]
    across = _Scale(max((x for x, _ in points), default=1), logarithmic)
    up = _Scale(max((y for _, y in points), default=1), logarithmic)
    lines = "".join(
        f'<polyline class="{kind}" vector-effect="non-scaling-stroke" points="'
        + " ".join(f"{10 * across.at(x):.1f},{1000 - 10 * up.at(y):.1f}" for x, y in line)
        + '"/>'
        for kind, line in series
    )
    height = _TOP + _PLOT + _BELOW

    def y_of(value: float) -> float:
        return round(_TOP + _PLOT * (1 - up.at(value) / 100), 2)

    grid = [
        f'<line class="tick" x1="0" x2="100%" y1="{y_of(tick)}" y2="{y_of(tick)}"/>'
        for tick in up.ticks
    ]
    below = [
        f'<text x="{across.at(tick):.3f}%" y="{_TOP + _PLOT + 17}"'
        f' text-anchor="{_anchor(across.at(tick))}">{_short(tick)}</text>'
        for tick in across.ticks
    ]
    inner = (
        f'<svg x="0" y="{_TOP}" width="100%" height="{_PLOT}" viewBox="0 0 1000 1000"'
        f' preserveAspectRatio="none">{lines}</svg>'
    )
    scale = _drawing(
        height,
        [
            f'<text x="100%" y="{y_of(tick) + 4}" text-anchor="end">{_short(tick)}</text>'
            for tick in up.ticks
        ],
    )
    return _figure("plot", "", description, scale + _drawing(height, [*grid, inner, *below]))


class _Scale:
    """An axis from 0, or from 1 if logarithmic, to the next round value."""

    def __init__(self, highest: float, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        if logarithmic:
            powers = max(1, math.ceil(math.log10(max(highest, 2)) - 1e-9))
            self._high = float(powers)
            self.ticks: list[float] = [10**power for power in range(powers + 1)]
        else:
            step = _round_step(max(highest, 1) / 4)
            n_steps = math.ceil(max(highest, 1) / step - 1e-9)
            self._high = step * n_steps
            self.ticks = [step * place for place in range(n_steps + 1)]

    def at(self, value: float) -> float:
        """In percent of the axis."""
        if self._logarithmic:
            return float(100 * math.log10(max(1, value)) / self._high)
        return 100 * value / self._high


def _round_step(raw: float) -> float:
    power = 10.0 ** max(0, math.floor(math.log10(raw)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw - 1e-9)


def _short(value: float) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def _anchor(percent: float) -> str:
    return "start" if percent < 3 else "end" if percent > 97 else "middle"


def _figure(shape: str, kind: str, description: str, drawings: Markup) -> Markup:
    return Markup('<div class="{}" role="img" aria-label="{}">{}</div>').format(
        f"{shape} {kind}".strip(), description, drawings
    )


def _drawing(height: float, parts: Sequence[str], kind: str = "area") -> Markup:
    return Markup(  # noqa: S704
        f'<svg class="{kind}" width="100%" height="{height}" aria-hidden="true"'
        f' focusable="false">{"".join(parts)}</svg>'
    )
