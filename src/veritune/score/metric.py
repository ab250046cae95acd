"""What a metric is.

One convention for all: ``Score.value`` is the value of one example as the metric's own
library prints it (rates 0/1, chrF and BLEU 0–100, ROUGE 0–1); a corpus value is always on
0–100, so that every difference reads in points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """One metric of one answer; see ``rows.Score`` for the fields."""

    value: float
    outcome: str
    stats: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric and everything that the statistics need to know of it.

    Attributes:
        name: as in recipes and score files.
        label: as in sentences and tables.
        unit: of the corpus value: ``%`` for shares of answers, ``points`` for the others.
        scale: what ``Score.value`` is multiplied by to be read in that unit.
        binary: whether every answer is either right or wrong (exact McNemar applies).
        signature: library, version and settings.
        score: reference and answer → value, outcome, statistics; an empty answer scores 0.
            None for metrics that run the answer (``functional``).
        corpus: summed statistics, shape [..., S] → corpus values, shape [...]; 0 where
            there is nothing to count, never NaN.
    """

    name: str
    label: str
    unit: str
    scale: float
    binary: bool
    signature: Callable[[], str]
    score: Callable[[str, str], Measured] | None
    corpus: Callable[[Array], Array]


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide element by element; 0 where the denominator is not positive."""
    out = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def mean_percent(stats: Array) -> Array:
    """100 × mean, from statistics whose last two entries are sum and count."""
    return 100.0 * ratio(stats[..., -2], stats[..., -1])
