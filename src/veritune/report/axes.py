"""Axes: a range of values with round ticks, and positions on it in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MARGIN_PERCENT = 2.5


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Attributes:
        ticks: rising, within ``low`` and ``high``.
        margin: percent of the width kept free at both ends.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    margin: float = 0.0

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the axis; values outside lie at its ends."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.margin + min(1.0, max(0.0, share)) * (100 - 2 * self.margin), 3)

    def label(self, value: float) -> str:
        """A tick with as many decimals as the ticks need."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        digits = next((d for d in range(12) if abs(round(step, d) - step) < 1e-6 * step), 12)
        return f"{value:,.{digits}f}".replace("-", "−")


def axis_over(values: Sequence[float], n_ticks: int = 6) -> Axis:
    """An axis that starts and ends at ticks and holds all values; 0 and 1 if there are none."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step = _round_step((high - low) / max(1, n_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def difference_axis(values: Sequence[float]) -> Axis:
    """An axis for differences: zero is on it, with some space at both ends."""
    axis = axis_over([0.0, *values, *(() if any(values) else (-1.0, 1.0))])
    return Axis(axis.low, axis.high, axis.ticks, _MARGIN_PERCENT)


def share_axis() -> Axis:
    """0 to 100."""
    return Axis(0, 100, (0, 25, 50, 75, 100), _MARGIN_PERCENT)


def loss_axis(values: Sequence[float]) -> Axis:
    """From zero, unless all losses are close together and far from it."""
    if values and min(values) > 0.6 * max(values):
        return axis_over(values, 5)
    return axis_over([0.0, *values], 5)


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw - 1e-12)
