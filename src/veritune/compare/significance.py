"""p-values: sign flips of clusters, Holm's correction, McNemar's exact test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr

from veritune.compare.statistics import Statistic
from veritune.score.metric import Array

ALPHA = 0.05
FINE_FLIPS = 10_000
"""Flips behind every p-value of 0.05 or less: with few, the smallest that can come out times
the number of comparisons would pass 0.05, and no difference could survive Holm's correction."""
TEST_SIGNATURE = f"p:cluster sign flips (from {FINE_FLIPS:,} at p <= {ALPHA}), two-sided"

_TOLERANCE = 1e-9
_FLIPS_AT_ONCE = 15_000


def sign_flip_p_value(
    statistic: Statistic, system: Array, against: Array, *, resamples: int, seed: int
) -> float:
    """Two-sided p-value of the difference of two systems under swaps of whole clusters.

    Args:
        statistic: of [sums of the one, sums of the other]; changes its sign when they swap.
        system, against: the clusters' summed statistics, both of shape [C, S].
        resamples: random swaps, and ``FINE_FLIPS`` in their place if these are fewer and give
            0.05 or less; the observed arrangement counts as one more.
        seed: any whole number from 0.
    """
    rng = np.random.default_rng([seed, 1])
    one, other = system.sum(axis=0), against.sum(axis=0)
    observed = abs(float(statistic([one, other])))
    reached, clusters = 1, len(system)
    at_once = max(1, _FLIPS_AT_ONCE // clusters)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        flips = rng.integers(2, size=(count, clusters)).astype(np.float64)
        moved = flips @ (against - system)
        values = np.abs(statistic([one + moved, other - moved]))
        reached += int((values >= observed - _TOLERANCE * max(1.0, observed)).sum())
    p_value = reached / (resamples + 1)
    if p_value <= ALPHA and resamples < FINE_FLIPS:
        return sign_flip_p_value(statistic, system, against, resamples=FINE_FLIPS, seed=seed)
    return p_value


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p-value from the two counts of discordant pairs."""
    discordant = only_first + only_second
    if not discordant:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5)))
