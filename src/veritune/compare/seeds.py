"""Several training seeds: how much the seed matters, and an interval that counts it.

With one training the interval speaks of that adapter.  With K trainings the estimand is the
expected difference over seeds, and two things are uncertain: which questions were asked, and
which seeds were drawn.  Each gives a half-width of its own around the mean difference:

- the clusters: the bootstrap of the difference averaged over the K trainings;
- the seeds: t(0.975; K - 1) × S / √K, S the standard deviation of the K differences.

They are joined as the root of the sum of their squares, on each side (the method of variance
estimates recovery: Zou and Donner 2008, "Construction of confidence limits about effect
measures", Statistics in Medicine 27).  A Satterthwaite interval for the sum of the two
variances is shorter, but holds the truth in only 87 % of cases at K = 2 where the seed
dominates; see ``benchmarks/seed_calibration.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, stdtrit

from veritune.compare.pairs import Pairs
from veritune.compare.significance import ALPHA, sign_flip_p_value
from veritune.compare.statistics import LEVEL, POWER, Estimate, estimate
from veritune.compare.systems import compare_pairs, signature_of, verdict_of
from veritune.rows import Comparison, Score
from veritune.score import corpus_value, metric_named
from veritune.score.metric import Array


def compare_over_seeds(
    metric: str, system: str, against: str, trainings: Sequence[Pairs], *, resamples: int, seed: int
) -> Comparison:
    """Compare a system trained with several seeds; with one, exactly ``compare_pairs``.

    The p-value is the larger of the sign flips' (of the mean difference) and the level at
    which the interval would end at zero, so ``p <= 0.05`` and "zero is outside" agree.

    Args:
        metric: name of the metric.
        system, against: names of the systems.
        trainings: the pairs of each seed, on the same examples.
        resamples: bootstrap resamples, and sign flips.
        seed: of the resampling, any whole number from 0.
    """
    first, count = trainings[0], len(trainings)
    if count == 1:
        return compare_pairs(metric, system, against, first, resamples=resamples, seed=seed)
    corpus = metric_named(metric).corpus
    values = np.array([float(corpus(pairs.system.sum(axis=0))) for pairs in trainings])
    value, other = float(values.mean()), float(corpus(first.against.sum(axis=0)))
    row = Comparison(
        metric=metric,
        system=system,
        against=against,
        n_examples=first.n_examples,
        n_clusters=first.n_clusters,
        value=value,
        against_value=other,
        delta=value - other,
        ci_low=None,
        ci_high=None,
        p_value=None,
        mde=None,
        signature=signature_of(
            metric,
            resamples=resamples,
            seed=seed,
            interval=f" joined with t over {count} training seeds",
            test=", at least the interval's",
        ),
        verdict="not measured",
        n_seeds=count,
    )
    found, p_flips = _over_clusters(metric, trainings, resamples=resamples, seed=seed)
    if found.low is None or found.high is None or p_flips is None:
        return row
    spread = float(values.std(ddof=1)) / math.sqrt(count)
    joined = _Joined(row.delta, found.low, found.high, first.n_clusters - 1, spread, count - 1)
    low, high = joined.ends()
    mde = joined.detectable(found.standard_error or 0.0)
    p_value = max(p_flips, joined.p_value())
    if p_value > ALPHA:
        low, high = min(low, 0.0), max(high, 0.0)
    return replace(
        row,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        mde=mde,
        verdict=verdict_of(low, high),
    )


def seeds_table(
    adapted: Mapping[int, Mapping[str, Sequence[Score]]], primary_metric: str
) -> dict[str, Any] | None:
    """Every metric of every seed's adapter, with the spread; None with a single training.

    Args:
        adapted: test scores by training seed, then by metric.
        primary_metric: the metric of the sentence.
    """
    if len(adapted) < 2:
        return None
    names = [
        name for name in next(iter(adapted.values())) if all(name in t for t in adapted.values())
    ]
    rows = []
    for name in names:
        values = [corpus_value(name, table[name]) for table in adapted.values()]
        rows.append(
            {
                "metric": name,
                "values": values,
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)),
            }
        )
    primary = next((row for row in rows if row["metric"] == primary_metric), None)
    return {
        "seeds": list(adapted),
        "metrics": rows,
        "sentence": _sentence(primary, primary_metric) if primary else "",
    }


@dataclass(frozen=True)
class _Joined:
    """An interval over clusters joined with one over seeds.

    Attributes:
        value: the difference; ``low``, ``high``: its interval over clusters.
        freedom: degrees of freedom of that interval.
        spread: standard error over seeds; ``seed_freedom``: its degrees of freedom.
    """

    value: float
    low: float
    high: float
    freedom: int
    spread: float
    seed_freedom: int

    def ends(self) -> tuple[float, float]:
        """The ends of the joined 95 % interval."""
        seeds = float(stdtrit(self.seed_freedom, (1 + LEVEL) / 2)) * self.spread
        return (
            self.value - math.hypot(self.value - self.low, seeds),
            self.value + math.hypot(self.high - self.value, seeds),
        )

    def detectable(self, error: float) -> float | None:
        """The smallest true effect that such an interval would tell from zero with 80 % power.

        The half-width that 80 % of intervals stay below, + t(0.80) joint standard errors.  The
        half-width over few seeds varies so much that its mean would promise too much: it is
        scaled from its mean to its 80 % quantile, by the distribution of S.

        Args:
            error: standard error over clusters.
        """
        total = math.hypot(error, self.spread)
        if total == 0:
            return None
        n = self.seed_freedom
        quantile = math.sqrt(float(chdtri(n, 1 - POWER)) / n)
        mean = math.sqrt(2 / n) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))
        seeds = float(stdtrit(n, (1 + LEVEL) / 2)) * self.spread * quantile / mean
        half_width = math.hypot((self.high - self.low) / 2, seeds)
        return half_width + float(stdtrit(self.freedom, POWER)) * total

    def p_value(self) -> float:
        """The level at which the interval's nearer end would be zero."""
        towards_zero = self.value - self.low if self.value > 0 else self.high - self.value
        scale = towards_zero / float(stdtrit(self.freedom, (1 + LEVEL) / 2))

        def excess(log_level: float) -> float:
            tail = 1 - math.exp(log_level) / 2
            clusters = float(stdtrit(self.freedom, tail)) * scale
            seeds = float(stdtrit(self.seed_freedom, tail)) * self.spread
            return math.hypot(clusters, seeds) - abs(self.value)

        lowest = math.log(1e-12)
        if self.value == 0:
            return 1.0
        if excess(lowest) <= 0:
            return 1e-12
        return math.exp(float(brentq(excess, lowest, 0.0)))


def _over_clusters(
    metric: str, trainings: Sequence[Pairs], *, resamples: int, seed: int
) -> tuple[Estimate, float | None]:
    """The difference averaged over seeds, and its sign-flip p-value if there are clusters."""
    corpus = metric_named(metric).corpus
    width, count = trainings[0].against.shape[1], len(trainings)
    against = trainings[0].against

    def difference(sums: Sequence[Array]) -> Array:
        # Swapped clusters give every training's block the other system's statistics and the
        # reverse, so both sides carry K blocks.
        one, other = sums
        blocks = [slice(width * k, width * (k + 1)) for k in range(count)]
        return np.asarray(
            np.mean([corpus(one[..., b]) - corpus(other[..., b]) for b in blocks], axis=0)
        )

    def joint(sums: Sequence[Array]) -> Array:
        other = sums[0][..., count * width :]
        return difference([sums[0][..., : count * width], np.concatenate([other] * count, axis=-1)])

    stacked = np.concatenate([pairs.system for pairs in trainings], axis=1)
    result = estimate(
        joint, [np.concatenate([stacked, against], axis=1)], resamples=resamples, seed=seed
    )
    if result.low is None:
        return result, None
    p_value = sign_flip_p_value(
        difference,
        stacked,
        np.concatenate([against] * count, axis=1),
        resamples=resamples,
        seed=seed,
    )
    return result, p_value


def _sentence(row: Mapping[str, Any], primary_metric: str) -> str:
    metric = metric_named(primary_metric)
    unit = " %" if metric.unit == "%" else ""
    values = [f"{value:.1f}" for value in row["values"]]
    return (
        f"Over {len(values)} training seeds {metric.label} is {', '.join(values[:-1])} and"
        f" {values[-1]}{unit}: standard deviation {row['sd']:.1f} points."
    )
