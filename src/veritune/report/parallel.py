"""Parallel coordinates: one line for each configuration, one axis for each setting."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from veritune.report.wording import is_number, one_line

_TOP, _HEIGHT = 30, 280
_LEFT_PERCENT, _RIGHT_PERCENT = 4.0, 12.0  # at the right, the last axis' labels
_INNER = 4.0  # percent of an axis kept free at both ends
_MOST_TICKS = 6


@dataclass(frozen=True)
class Line:
    """One configuration of the drawing.

    Attributes:
        kind: a class of the style sheet: is-winner, is-finished, is-stopped, is-diverged.
        title: what a pointer that rests on it is told.
    """

    kind: str
    title: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class _Scale:
    """Where the values of one setting lie, in percent from the bottom, and its marks."""

    name: str
    places: dict[str, float]
    ticks: list[tuple[float, str]]

    def at(self, value: Any) -> float | None:
        return self.places.get(_key(value))


def parallel_coordinates(names: Sequence[str], lines: Sequence[Line], description: str) -> Markup:
    """The drawing; later lines lie above earlier ones.

    Args:
        names: of the axes; the last one's values are numbers or None (drawn to nowhere).
    """
    scales = [_scale(name, [line.values[i] for line in lines]) for i, name in enumerate(names)]
    xs = [_x(index, len(names)) for index in range(len(names))]
    parts = [
        f'<line class="axis" x1="{x}%" x2="{x}%" y1="{_TOP}" y2="{_TOP + _HEIGHT}"/>' for x in xs
    ]
    paths = []
    for line in lines:
        points = [
            f"{10 * x:.1f},{1000 - 10 * place:.1f}"
            for x, scale, value in zip(xs, scales, line.values, strict=True)
            if (place := scale.at(value)) is not None
        ]
        paths.append(
            f'<polyline class="{escape(line.kind)}" vector-effect="non-scaling-stroke"'
            f' points="{" ".join(points)}"><title>{escape(line.title)}</title></polyline>'
        )
    parts.append(
        f'<svg x="0" y="{_TOP}" width="100%" height="{_HEIGHT}" viewBox="0 0 1000 1000"'
        f' preserveAspectRatio="none">{"".join(paths)}</svg>'
    )
    for x, scale in zip(xs, scales, strict=True):
        anchor, at = "middle", x
        if x in (xs[0], xs[-1]):
            # Names at the ends grow inwards, lest the narrowest page cut them.
            anchor, at = ("start", 0.0) if x == xs[0] else ("end", 100.0)
        name = escape(one_line(scale.name, 40))
        parts.append(f'<text class="name" x="{at}%" y="14" text-anchor="{anchor}">{name}</text>')
        for place, label in scale.ticks:
            y = round(_TOP + _HEIGHT * (1 - place / 100), 1)
            parts.append(f'<circle class="tick" cx="{x}%" cy="{y}" r="2"/>')
            parts.append(f'<text class="value" x="{x}%" dx="7" y="{y + 4}">{escape(label)}</text>')
    # Up to three axes fit a telephone; more scroll.
    width = f"{20 if len(names) <= 3 else round(8.2 * len(names))}rem"
    return Markup(
        '<div class="parallel" role="img" aria-label="{}"><svg width="100%" height="{}"'
        ' style="min-width:{}" aria-hidden="true" focusable="false">{}</svg></div>'
    ).format(description, _TOP + _HEIGHT + 12, width, Markup("".join(parts)))  # noqa: S704


def _x(index: int, count: int) -> float:
    """Percent of the width; room is left at the right for the last axis' labels."""
    span = 100 - _LEFT_PERCENT - _RIGHT_PERCENT
    return round(_LEFT_PERCENT + span * index / max(1, count - 1), 3)


def _scale(name: str, values: Sequence[Any]) -> _Scale:
    known = [value for value in values if value is not None]
    if known and all(is_number(value) for value in known):
        return _numbers(name, [float(value) for value in known], known)
    keys = list(dict.fromkeys(map(_key, known)))
    step = (100 - 2 * _INNER) / max(1, len(keys) - 1)
    places = {key: _INNER + step * index for index, key in enumerate(keys)}
    if len(keys) == 1:
        places = {keys[0]: 50.0}
    return _Scale(
        name, places, [(place, one_line(_label(key), 18)) for key, place in places.items()]
    )


def _numbers(name: str, numbers: Sequence[float], values: Sequence[Any]) -> _Scale:
    """Evenly over magnitudes where all are above zero and they span one or more."""
    low, high = min(numbers), max(numbers)
    logged = low > 0 and high / low >= 8
    place_of = math.log if logged else float
    start, end = place_of(low), place_of(high)

    def place(number: float) -> float:
        share = (place_of(number) - start) / (end - start) if end > start else 0.5
        return round(_INNER + share * (100 - 2 * _INNER), 3)

    places = {_key(value): place(number) for value, number in zip(values, numbers, strict=True)}
    distinct = sorted(set(numbers))
    if len(distinct) > _MOST_TICKS:
        shares = [index / 4 for index in range(5)]
        marks = [start + share * (end - start) for share in shares]
        distinct = [math.exp(mark) if logged else mark for mark in marks]
    ticks = [(place(number), f"{number:.4g}") for number in distinct]
    return _Scale(name, places, _apart(ticks))


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Ticks whose labels have room, the ends first."""
    kept: list[tuple[float, str]] = []
    for tick in [ticks[0], ticks[-1], *ticks[1:-1]] if len(ticks) > 1 else ticks:
        if all(abs(tick[0] - other) >= 6 for other, _ in kept):
            kept.append(tick)
    return kept


def _key(value: Any) -> str:
    # 1 and 1.0 are one place; 1 and True are not.
    if is_number(value):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def _label(key: str) -> str:
    value = json.loads(key)
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
