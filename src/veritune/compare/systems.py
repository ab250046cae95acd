"""One metric of two systems: the difference, its interval, its p-value, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from veritune.compare.pairs import Pairs, pair
from veritune.compare.significance import ALPHA, TEST_SIGNATURE, sign_flip_p_value
from veritune.compare.statistics import INTERVAL_SIGNATURE, estimate
from veritune.rows import Comparison, Score, Verdict
from veritune.score import metric_named
from veritune.score.metric import Array


def compare_systems(
    metric: str,
    system: str,
    against: str,
    scores_a: Sequence[Score],
    scores_b: Sequence[Score],
    *,
    clusters: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Comparison:
    """Compare two systems on the same examples; the unit is the cluster.

    The verdict is read off the interval.  An interval that excludes zero although the sign
    flips do not reject at 0.05 is extended to zero: with few differing clusters only the
    sign flips keep their level.

    Args:
        metric: name of the metric.
        system, against: names of the systems.
        scores_a, scores_b: their scores; rows of other metrics are left aside.
        clusters: cluster of every example, by example id.
        resamples: bootstrap resamples, and sign flips.
        seed: any whole number from 0.

    Raises:
        DataError: the systems do not answer the same examples.
    """
    pairs = pair(metric, scores_a, scores_b, clusters)
    return compare_pairs(metric, system, against, pairs, resamples=resamples, seed=seed)


def compare_pairs(
    metric: str, system: str, against: str, pairs: Pairs, *, resamples: int, seed: int
) -> Comparison:
    """``compare_systems`` on scores that are already paired and summed by cluster."""
    corpus = metric_named(metric).corpus
    width = pairs.system.shape[1]

    def difference(sums: Sequence[Array]) -> Array:
        one, other = sums
        return corpus(one) - corpus(other)

    def joint(sums: Sequence[Array]) -> Array:
        return difference([sums[0][..., :width], sums[0][..., width:]])

    both = np.concatenate([pairs.system, pairs.against], axis=1)
    result = estimate(joint, [both], resamples=resamples, seed=seed)
    low, high, p_value = result.low, result.high, None
    if low is not None and high is not None:
        p_value = sign_flip_p_value(
            difference, pairs.system, pairs.against, resamples=resamples, seed=seed
        )
        if p_value > ALPHA:
            low, high = min(low, 0.0), max(high, 0.0)
    return Comparison(
        metric=metric,
        system=system,
        against=against,
        n_examples=pairs.n_examples,
        n_clusters=pairs.n_clusters,
        value=float(corpus(pairs.system.sum(axis=0))),
        against_value=float(corpus(pairs.against.sum(axis=0))),
        delta=result.value,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        mde=result.mde,
        signature=signature_of(metric, resamples=resamples, seed=seed),
        verdict=verdict_of(low, high),
    )


def signature_of(
    metric: str, *, resamples: int, seed: int, interval: str = "", test: str = ""
) -> str:
    """The metric's signature and that of its statistics; what is added to them, if anything."""
    return "|".join(
        (
            metric_named(metric).signature(),
            f"{INTERVAL_SIGNATURE}{interval}, 95 %",
            f"{TEST_SIGNATURE}{test}",
            f"resamples:{resamples}",
            f"seed:{seed}",
        )
    )


def verdict_of(low: float | None, high: float | None) -> Verdict:
    """The verdict that an interval of (system - other) speaks."""
    if low is None or high is None:
        return "not measured"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "no difference detected"
