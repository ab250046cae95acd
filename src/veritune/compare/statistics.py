"""Bootstrap intervals of corpus metrics, with the cluster as the unit.

A metric is a function of statistics summed over clusters, so one resample is one row of
weights times the clusters' sums, and 10,000 resamples are a matrix product.

The plain percentile interval is too narrow for small sets.  Two things mend that:

- its levels are expanded from normal to Student quantiles with the factor sqrt(C / (C - 1))
  for C clusters (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", 4.4);
- each end is the outer one of the expanded percentile and the expanded BCa interval (Efron
  1987): BCa follows skew but is too short where few clusters differ at all, the percentile
  interval is the reverse.

``benchmarks/calibration.py`` measures what this gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from veritune.score.metric import Array

MIN_CLUSTERS = 30
LEVEL = 0.95
POWER = 0.80
INTERVAL_SIGNATURE = "interval:cluster bootstrap, outer of expanded percentile and BCa"

Statistic = Callable[[Sequence[Array]], Array]
"""Sums of each group's statistics, shapes [..., K_g] → values, shape [...]."""

_TOLERANCE = 1e-9
_WEIGHTS_AT_ONCE = 15_000  # small enough to be reused by the allocator, four times as fast


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and how well it is known.

    Attributes:
        low, high: ends of the 95 % interval; None below ``MIN_CLUSTERS`` clusters.
        standard_error: of the bootstrap; None likewise.
        mde: the smallest true effect that the interval would tell from zero with 80 %
            power, half the interval's width + t(0.80) standard errors; None likewise, and
            where every cluster says the same, since nothing is then known of the spread.
    """

    value: float
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    mde: float | None = None


def estimate(
    statistic: Statistic, groups: Sequence[Array], *, resamples: int, seed: int
) -> Estimate:
    """Estimate a statistic of independent groups of clusters, with its interval.

    Args:
        statistic: what is estimated.
        groups: per group the clusters' summed statistics, shape [C_g, K_g].
        resamples: of the clusters of every group.
        seed: any whole number from 0.
    """
    value = float(statistic([group.sum(axis=0) for group in groups]))
    smallest = min(len(group) for group in groups)
    if smallest < MIN_CLUSTERS:
        return Estimate(value)
    drawn = np.concatenate(list(_draws(statistic, groups, resamples, seed)))
    correction = float(np.sqrt(smallest / (smallest - 1)))
    standard_error = float(drawn.std()) * correction
    if standard_error <= _TOLERANCE * max(1.0, abs(value)):
        return Estimate(value, value, value, 0.0, None)
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    z = stdtrit(smallest - 1, tails) * correction
    ends = np.stack(
        [
            np.quantile(drawn, ndtr(z)),
            np.quantile(drawn, bca_levels(statistic, groups, drawn, z)),
        ]
    )
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    mde = (high - low) / 2 + float(stdtrit(smallest - 1, POWER)) * standard_error
    return Estimate(value, low, high, standard_error, mde)


def bca_levels(statistic: Statistic, groups: Sequence[Array], drawn: Array, z: Array) -> Array:
    """The quantiles of ``drawn`` that bias-corrected and accelerated limits stand at.

    Args:
        statistic, groups: as in ``estimate``.
        drawn: the statistic of the resamples, shape [R].
        z: normal scores of the wanted levels, such as ±1.96.

    Returns:
        Levels in 0–1, shape of ``z`` (Efron 1987, eq. 6.8; several groups as in
        ``scipy.stats.bootstrap``).
    """
    totals = [group.sum(axis=0) for group in groups]
    value = float(statistic(totals))
    margin = _TOLERANCE * max(1.0, abs(value))
    below, tied = (drawn < value - margin).mean(), (abs(drawn - value) <= margin).mean()
    share = np.clip(below + tied / 2, 0.5 / len(drawn), 1 - 0.5 / len(drawn))
    bias = float(ndtri(share))
    cubes = squares = 0.0
    for index, group in enumerate(groups):
        count = len(group)
        left_out: list[Array] = [np.broadcast_to(total, (count, total.size)) for total in totals]
        left_out[index] = totals[index] - group
        values = statistic(left_out)
        influence = (values.mean() - values) * (count - 1) / count
        cubes += float((influence**3).sum())
        squares += float((influence**2).sum())
    acceleration = cubes / (6 * squares**1.5) if squares > margin**2 else 0.0
    shifted = bias + z
    return np.asarray(ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, _TOLERANCE)))


def _draws(
    statistic: Statistic, groups: Sequence[Array], resamples: int, seed: int
) -> Iterator[Array]:
    rng = np.random.default_rng([seed, 0])
    at_once = max(1, _WEIGHTS_AT_ONCE // max(len(group) for group in groups))
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        yield statistic([_weights(rng, count, len(group)) @ group for group in groups])


def _weights(rng: np.random.Generator, resamples: int, clusters: int) -> Array:
    """How often each cluster is drawn in each resample, shape [resamples, clusters]."""
    drawn = rng.integers(clusters, size=(resamples, clusters))
    drawn += np.arange(resamples)[:, None] * clusters
    counts = np.bincount(drawn.ravel(), minlength=resamples * clusters)
    return counts.reshape(resamples, clusters).astype(np.float64)
