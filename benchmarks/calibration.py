"""Does the verdict keep its promises?  Simulations with a known truth, at n = 40, 100, 400.

Null cells (no true difference) must show at most 6 % false positives at 0.05; cells with a
known effect of the printed minimum detectable effect must show at least 75 % power, and the
95 % interval must hold the true effect in 93 to 97 % of them (pass/fail outcomes are discrete:
there it may hold it more often).  Clusters are of unequal size and share part of what is random.

The function under test is the one that writes comparison.json.  JSON lines go to stdout, the
table to stderr; the exit code is 1 if a promise is broken.

    python benchmarks/calibration.py --simulations 1000
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from veritune.compare.pairs import Pairs
from veritune.compare.systems import compare_pairs
from veritune.rows import Comparison
from veritune.score.metric import Array

Indices = npt.NDArray[np.int64]

CLUSTERS = {40: 32, 100: 72, 400: 260}
MAX_FALSE_POSITIVES, MIN_POWER = 6.0, 75.0
COVERAGE = (93.0, 97.0)
DISCORDANCE = {"pass/fail": 0.20, "pass/fail, rarely different": 0.05}


@dataclass(frozen=True)
class Cell:
    """What was measured of one scenario at one size, percentages and points on 0–100."""

    scenario: str
    n_examples: int
    n_clusters: int
    simulations: int
    resamples: int
    effect: float
    significant_percent: float
    coverage_percent: float
    mean_mde: float
    seconds: float
    holds: bool


@dataclass(frozen=True)
class Design:
    """Who belongs to which cluster, and random draws shared within them."""

    rng: np.random.Generator
    starts: Indices
    cluster: Indices

    @classmethod
    def draw(cls, n_examples: int, rng: np.random.Generator) -> Design:
        """Cluster sizes fall off like a power law, most clusters are single."""
        count = CLUSTERS[n_examples]
        share = 1 / np.arange(1, count + 1)
        sizes = 1 + rng.multinomial(n_examples - count, share / share.sum())
        return cls(rng, np.cumsum(sizes) - sizes, np.repeat(np.arange(count), sizes))

    def normal(self, shared: float = 0.5) -> Array:
        """Standard normal, a share of the variance common to the cluster."""
        own = self.rng.normal(size=len(self.cluster))
        common = self.rng.normal(size=len(self.starts))[self.cluster]
        return np.asarray(np.sqrt(shared) * common + np.sqrt(1 - shared) * own)

    def pairs(self, system: Array, against: Array) -> Pairs:
        """Two systems' statistics, shape [n, S], as the functions under test want them."""
        one, other = (np.add.reduceat(part, self.starts, axis=0) for part in (system, against))
        return Pairs(len(self.cluster), one, other, wins=0, losses=0)


def means(design: Design, values: Array, other: Array) -> Pairs:
    return design.pairs(*(np.column_stack([part, np.ones(len(part))]) for part in (values, other)))


def copies(design: Design, effect: float) -> Pairs:
    """Two copies of one system: the same distribution given the question."""
    question = design.normal()
    one, other = (1 / (1 + np.exp(-question - design.normal(0.2))) for _ in range(2))
    return means(design, one + effect / 100, other)


def label_permutations(design: Design, effect: float) -> Pairs:
    """Really different systems, their labels swapped at random by cluster."""
    assert not effect
    other = 1 / (1 + np.exp(-design.normal()))
    gain = np.where(design.rng.random(len(other)) < 0.3, design.rng.exponential(0.4, len(other)), 0)
    swap = design.rng.random(len(design.starts))[design.cluster] < 0.5
    return means(design, other + np.where(swap, gain, 0), other + np.where(swap, 0, gain))


def skewed(design: Design, effect: float) -> Pairs:
    """Many small losses and a few large gains that cancel."""
    own = design.rng.exponential(size=len(design.cluster)) - 1
    common = design.rng.exponential(size=len(design.starts))[design.cluster] - 1
    other = design.normal()
    return means(design, other + 0.2 * own + 0.1 * common + effect / 100, other)


def pass_fail(scenario: str) -> Callable[[Design, float], Pairs]:
    discordance = DISCORDANCE[scenario]

    def simulate(design: Design, effect: float) -> Pairs:
        n = len(design.cluster)
        differs = design.rng.random(n) < discordance
        win_share = (1 + effect / 100 / discordance) / 2
        wins = design.rng.random(n) < win_share
        both = design.rng.random(n) < 0.5
        one, other = np.where(differs, wins, both), np.where(differs, ~wins, both)
        return means(design, one.astype(float), other.astype(float))

    return simulate


def chrf_counts(design: Design, effect: float) -> Pairs:
    """Two copies of one system as chrF sees them: long texts weigh more."""
    assert not effect
    length = np.round(np.exp(5 + 0.7 * design.normal(0.2))) + 8
    question = design.normal()
    sides = []
    for _ in range(2):
        written = np.round(length * np.exp(design.rng.normal(0, 0.35, len(length)))) + 8
        matched = 1 / (1 + np.exp(0.4 - 0.7 * question - 0.7 * design.normal(0.2)))
        columns = []
        for order in range(6):
            both = np.round(np.minimum(written, length) * matched ** (1 + 0.3 * order))
            columns += [written - order, length - order, np.minimum(both, length - order)]
        sides.append(np.column_stack(columns))
    return design.pairs(*sides)


SCENARIOS: dict[str, tuple[str, Callable[[Design, float], Pairs], bool]] = {
    "two copies": ("rougeL", copies, True),
    "label permutations": ("rougeL", label_permutations, False),
    "skewed differences": ("rougeL", skewed, True),
    "two copies, chrF": ("chrf", chrf_counts, False),
    **{name: ("exact_match", pass_fail(name), True) for name in DISCORDANCE},
}


def measure(
    scenario: str, n_examples: int, effect: float, *, simulations: int, resamples: int, seed: int
) -> Cell:
    metric, simulate, _ = SCENARIOS[scenario]
    rng = np.random.default_rng([seed, n_examples, list(SCENARIOS).index(scenario), effect > 0])
    started = time.perf_counter()
    rows: list[Comparison] = []
    for index in range(simulations):
        pairs = simulate(Design.draw(n_examples, rng), effect)
        row = compare_pairs(metric, "one", "other", pairs, resamples=resamples, seed=index)
        rows.append(row)
    significant = 100 * np.mean([row.verdict in ("better", "worse") for row in rows])
    covered = 100 * np.mean([contains(row, effect) for row in rows])
    discrete = metric == "exact_match"
    if effect:
        holds = significant >= MIN_POWER and COVERAGE[0] <= covered
        holds &= discrete or covered <= COVERAGE[1]
    else:
        holds = significant <= MAX_FALSE_POSITIVES
    return Cell(
        scenario=scenario,
        n_examples=n_examples,
        n_clusters=CLUSTERS[n_examples],
        simulations=simulations,
        resamples=resamples,
        effect=round(effect, 3),
        significant_percent=round(float(significant), 2),
        coverage_percent=round(float(covered), 2),
        mean_mde=round(float(np.mean([row.mde for row in rows if row.mde is not None])), 3),
        seconds=round(time.perf_counter() - started, 1),
        holds=bool(holds),
    )


def contains(row: Comparison, effect: float) -> bool:
    assert row.ci_low is not None, "every design has enough clusters"
    assert row.ci_high is not None
    return row.ci_low <= effect <= row.ci_high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1_000)
    parser.add_argument("--resamples", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(CLUSTERS), choices=CLUSTERS)
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("simulations", "resamples", "seed")}
    print(f"{'scenario':28} {'n':>4} {'effect':>7} {'signif.':>8} {'covered':>8}", file=sys.stderr)
    holds = True
    for scenario, (_, _, has_power) in SCENARIOS.items():
        for n_examples in arguments.sizes:
            null = measure(scenario, n_examples, 0.0, **settings)
            cells = [null]
            possible = null.mean_mde < 100 * DISCORDANCE.get(scenario, 1.0)
            if has_power and possible:
                cells.append(measure(scenario, n_examples, null.mean_mde, **settings))
            for cell in cells:
                print(json.dumps(asdict(cell)), flush=True)
                print(
                    f"{scenario:28} {n_examples:4} {cell.effect:7.2f}"
                    f" {cell.significant_percent:7.1f}% {cell.coverage_percent:7.1f}%"
                    f" {'' if cell.holds else '  BROKEN'}",
                    file=sys.stderr,
                )
                holds &= cell.holds
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
