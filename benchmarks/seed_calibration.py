"""Does the interval over several training seeds keep its promise?  Simulations, K = 2, 3, 5.

A difference is the sum of a true effect, what each training seed adds to all questions, what
each cluster adds to all seeds, and what a seed adds to one cluster.  The share of the seed
varies from nothing to nearly everything.  The 95 % interval must hold the true effect in at
least 93 % of simulations, and without an effect at most 6 % may be called significant; with
an effect of the printed minimum detectable effect at least 75 % must be.

The function under test is the one that writes comparison.json.  JSON lines go to stdout, the
table to stderr; the exit code is 1 if a promise is broken.

    python benchmarks/seed_calibration.py --simulations 1000
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

from veritune.compare.pairs import Pairs
from veritune.compare.seeds import compare_over_seeds
from veritune.rows import Comparison

COUNTS = (2, 3, 5)
SEED_SHARES = (0.0, 0.1, 0.3, 1.0, 3.0, 30.0)
"""Variance of the mean over seeds, in units of the variance over clusters."""
MIN_COVERAGE, MAX_FALSE_POSITIVES, MIN_POWER = 93.0, 6.0, 75.0
SPREAD, INTERACTION = 0.3, 0.15


@dataclass(frozen=True)
class Cell:
    """What was measured of one K and one share, in percent and points on 0–100."""

    n_seeds: int
    seed_share: float
    n_clusters: int
    simulations: int
    resamples: int
    effect: float
    significant_percent: float
    coverage_percent: float
    single_coverage_percent: float
    mean_width: float
    mean_mde: float
    seconds: float
    holds: bool


def simulate(
    rng: np.random.Generator, n_seeds: int, share: float, n_clusters: int, effect: float
) -> list[Pairs]:
    """The pairs of every seed: rougeL-like means on 0–1, clusters of unequal size."""
    sizes = 1 + rng.poisson(0.4, n_clusters)
    common = rng.normal(0, SPREAD, n_clusters)
    other = rng.normal(0.4, 0.2, n_clusters)
    shifts = rng.normal(0, SPREAD * np.sqrt(share * n_seeds / n_clusters), n_seeds)
    trainings = []
    for shift in shifts:
        own = rng.normal(0, INTERACTION, n_clusters)
        value = other + effect / 100 + common + own + shift
        system, against = (
            np.column_stack([part * sizes, sizes]).astype(float) for part in (value, other)
        )
        trainings.append(Pairs(int(sizes.sum()), system, against, wins=0, losses=0))
    return trainings


def measure(n_seeds: int, share: float, effect: float, arguments: argparse.Namespace) -> Cell:
    rng = np.random.default_rng([arguments.seed, n_seeds, int(10 * share), effect > 0])
    started = time.perf_counter()
    rows: list[Comparison] = []
    singles: list[Comparison] = []
    for index in range(arguments.simulations):
        trainings = simulate(rng, n_seeds, share, arguments.clusters, effect)
        settings = {"resamples": arguments.resamples, "seed": index}
        rows.append(compare_over_seeds("rougeL", "adapted", "other", trainings, **settings))
        singles.append(compare_over_seeds("rougeL", "adapted", "other", trainings[:1], **settings))
    significant = 100 * float(np.mean([row.verdict in ("better", "worse") for row in rows]))
    covered = 100 * float(np.mean([contains(row, effect) for row in rows]))
    if effect:
        holds = significant >= MIN_POWER and covered >= MIN_COVERAGE
    else:
        holds = significant <= MAX_FALSE_POSITIVES and covered >= MIN_COVERAGE
    return Cell(
        n_seeds=n_seeds,
        seed_share=share,
        n_clusters=arguments.clusters,
        simulations=arguments.simulations,
        resamples=arguments.resamples,
        effect=round(effect, 3),
        significant_percent=round(significant, 2),
        coverage_percent=round(covered, 2),
        single_coverage_percent=round(
            100 * float(np.mean([contains(r, effect) for r in singles])), 2
        ),
        mean_width=round(float(np.mean([(r.ci_high or 0) - (r.ci_low or 0) for r in rows])), 3),
        mean_mde=round(float(np.mean([r.mde for r in rows if r.mde is not None])), 3),
        seconds=round(time.perf_counter() - started, 1),
        holds=holds,
    )


def contains(row: Comparison, effect: float) -> bool:
    assert row.ci_low is not None, "every design has enough clusters"
    assert row.ci_high is not None
    return row.ci_low <= effect <= row.ci_high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--clusters", type=int, default=72)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    arguments = parser.parse_args()
    print(
        f"{'seeds':>5} {'share':>6} {'effect':>7} {'signif.':>8} {'covered':>8}"
        f" {'one seed':>9} {'width':>7}",
        file=sys.stderr,
    )
    holds = True
    for n_seeds in arguments.counts:
        for share in SEED_SHARES:
            null = measure(n_seeds, share, 0.0, arguments)
            for cell in (null, measure(n_seeds, share, null.mean_mde, arguments)):
                print(json.dumps(asdict(cell)), flush=True)
                print(
                    f"{n_seeds:5} {share:6.1f} {cell.effect:7.2f} {cell.significant_percent:7.1f}%"
                    f" {cell.coverage_percent:7.1f}% {cell.single_coverage_percent:8.1f}%"
                    f" {cell.mean_width:7.2f}{'' if cell.holds else '  BROKEN'}",
                    file=sys.stderr,
                )
                holds &= cell.holds
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
