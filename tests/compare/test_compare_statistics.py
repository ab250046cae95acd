from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from veritune.compare.pairs import Pairs
from veritune.compare.significance import (
    FINE_FLIPS,
    holm,
    mcnemar_p_value,
    sign_flip_p_value,
)
from veritune.compare.statistics import MIN_CLUSTERS, Estimate, bca_levels, estimate
from veritune.compare.systems import compare_pairs
from veritune.score.metric import Array

SKEWED = np.random.default_rng(7).lognormal(size=60)


def mean(sums: Sequence[Array]) -> Array:
    """Mean of singleton clusters, from (sum, count)."""
    return np.asarray(sums[0][..., 0] / sums[0][..., 1])


def mean_difference(sums: Sequence[Array]) -> Array:
    return np.asarray(sums[0][..., 0] / sums[0][..., 1] - sums[1][..., 0] / sums[1][..., 1])


def singletons(values: Array) -> Array:
    return np.column_stack([values, np.ones(len(values))])


def expanded_level(count: int) -> float:
    z = scipy.stats.t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1))
    return float(2 * scipy.stats.norm.cdf(z) - 1)


def test_bca_limits_are_scipys_on_the_same_resamples() -> None:
    theirs = scipy.stats.bootstrap(
        (SKEWED,), np.mean, method="BCa", n_resamples=5_000, rng=np.random.default_rng(0)
    )
    drawn = theirs.bootstrap_distribution
    levels = bca_levels(mean, [singletons(SKEWED)], drawn, scipy.stats.norm.ppf([0.025, 0.975]))
    limits = np.quantile(drawn, levels)
    assert limits == pytest.approx(tuple(theirs.confidence_interval), abs=2e-3)
    assert levels[0] > 0.03


def test_bca_of_two_independent_groups_is_scipys() -> None:
    other = np.random.default_rng(1).exponential(size=40)

    def difference(a: Array, b: Array, axis: int = -1) -> Array:
        return np.asarray(a.mean(axis=axis) - b.mean(axis=axis))

    theirs = scipy.stats.bootstrap(
        (SKEWED, other), difference, method="BCa", n_resamples=5_000, rng=np.random.default_rng(0)
    )
    drawn = theirs.bootstrap_distribution
    groups = [singletons(SKEWED), singletons(other)]
    levels = bca_levels(mean_difference, groups, drawn, scipy.stats.norm.ppf([0.025, 0.975]))
    limits = np.quantile(drawn, levels)
    assert limits == pytest.approx(tuple(theirs.confidence_interval), abs=2e-3)


def test_interval_is_the_outer_one_of_scipys_at_the_expanded_level() -> None:
    ours = estimate(mean, [singletons(SKEWED)], resamples=20_000, seed=0)
    ends = [
        scipy.stats.bootstrap(
            (SKEWED,),
            np.mean,
            method=method,
            n_resamples=20_000,
            confidence_level=expanded_level(len(SKEWED)),
            rng=np.random.default_rng(1),
        ).confidence_interval
        for method in ("percentile", "BCa")
    ]
    spread = SKEWED.std() / np.sqrt(len(SKEWED))
    assert ours.value == pytest.approx(SKEWED.mean())
    assert ours.low == pytest.approx(min(end.low for end in ends), abs=0.06 * spread)
    assert ours.high == pytest.approx(max(end.high for end in ends), abs=0.12 * spread)


def test_standard_error_and_mde_of_a_mean() -> None:
    values = np.random.default_rng(2).normal(size=200)
    ours = estimate(mean, [singletons(values)], resamples=20_000, seed=0)
    expected = scipy.stats.sem(values)
    assert ours.standard_error == pytest.approx(expected, rel=0.02)
    assert ours.mde == pytest.approx((1.96 + 0.8416) * expected, rel=0.04)


def test_clusters_not_rows_are_the_unit() -> None:
    """Ten copies of every row in the same cluster are no evidence more."""
    rows = singletons(SKEWED)
    one = estimate(mean, [rows], resamples=500, seed=0)
    ten = estimate(mean, [10 * rows], resamples=500, seed=0)
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


def test_seeds_are_seeds() -> None:
    groups = [singletons(SKEWED)]
    zero, again, one = (estimate(mean, groups, resamples=500, seed=s) for s in (0, 0, 1))
    assert zero == again
    assert zero.low != one.low
    assert zero.value == one.value


def test_few_clusters_are_not_measured() -> None:
    rows = singletons(SKEWED)
    few = estimate(mean, [rows[: MIN_CLUSTERS - 1]], resamples=500, seed=0)
    assert few == Estimate(few.value)
    assert estimate(mean, [rows[:1]], resamples=500, seed=0).value == pytest.approx(SKEWED[0])
    assert estimate(mean, [rows[:MIN_CLUSTERS]], resamples=500, seed=0).low is not None
    both = estimate(mean_difference, [rows, rows[:5]], resamples=500, seed=0)
    assert both.low is None


@pytest.mark.parametrize("constant", [0.0, 3.5, -2.0])
def test_constant_differences_have_a_point_for_an_interval(constant: float) -> None:
    result = estimate(mean, [singletons(np.full(50, constant))], resamples=500, seed=0)
    assert result == Estimate(constant, constant, constant, 0.0, None)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.0, 1.0, 50.0]), min_size=30, max_size=45),
    st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_intervals_are_finite_ordered_and_hold_the_value(values: list[float], seed: int) -> None:
    rows = singletons(np.array(values))
    with np.errstate(all="raise", under="ignore"):
        result = estimate(mean, [rows], resamples=200, seed=seed)
    assert result.low is not None
    assert result.high is not None
    assert min(values) - 1e-9 <= result.low <= result.high <= max(values) + 1e-9
    assert result.mde is None or np.isfinite(result.mde)


def test_sign_flip_p_value_is_scipys_permutation_test() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(0.3, 1, size=50), rng.normal(0, 1, size=50)
    ours = sign_flip_p_value(
        mean_difference, singletons(one), singletons(other), resamples=20_000, seed=0
    )
    theirs = scipy.stats.permutation_test(
        (one, other),
        lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue
    assert 0.01 < theirs < 0.9
    assert ours == pytest.approx(theirs, abs=0.012)


def test_sign_flip_p_value_is_exact_on_all_arrangements() -> None:
    one = np.random.default_rng(4).normal(0.5, 1, size=8)
    zero = np.zeros(8)
    signs = np.array(list(itertools.product([-1, 1], repeat=8)))
    exact = (abs(signs @ one) >= abs(one.sum()) - 1e-9).mean()
    ours = sign_flip_p_value(
        mean_difference, singletons(one), singletons(zero), resamples=40_000, seed=0
    )
    assert ours == pytest.approx(exact, abs=0.01)


def test_sign_flip_p_value_is_one_where_nothing_differs_and_never_zero() -> None:
    rows = singletons(SKEWED)
    assert sign_flip_p_value(mean_difference, rows, rows, resamples=100, seed=0) == 1
    far = rows + np.array([1000, 0])
    p_value = sign_flip_p_value(mean_difference, far, rows, resamples=100, seed=0)
    assert p_value == pytest.approx(1 / (FINE_FLIPS + 1))


def test_with_few_resamples_a_clear_difference_still_survives_holm() -> None:
    """Else an interval far from zero would stand beside "no difference detected"."""
    rows = singletons(SKEWED)
    far = rows + np.array([1000, 0])
    p_value = sign_flip_p_value(mean_difference, far, rows, resamples=200, seed=0)
    assert max(holm([p_value] * 40)) < 0.05


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    ours = mcnemar_p_value(first, second)
    if first + second:
        assert ours == pytest.approx(scipy.stats.binomtest(first, first + second).pvalue)
    else:
        assert ours == 1


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for (p, q), (other_p, other_q) in itertools.product(
        zip(p_values, adjusted, strict=True), repeat=2
    ):
        assert p <= q <= 1
        assert q <= other_q or p > other_p


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [False, True])
def test_false_positives_stay_at_their_level_in_null_simulations(skewed: bool) -> None:
    rng = np.random.default_rng(11)
    simulations, found = 800, 0
    for seed in range(simulations):
        sizes = 1 + rng.poisson(rng.exponential(0.6, size=40))
        noise = [
            (rng.exponential(size=size) - 1 if skewed else rng.normal(size=size)).sum()
            for size in sizes
        ]
        level = rng.normal(size=len(sizes))
        pairs = Pairs(
            n_examples=int(sizes.sum()),
            system=np.column_stack([level + noise, sizes]),
            against=np.column_stack([level, sizes]),
            wins=0,
            losses=0,
        )
        row = compare_pairs("rougeL", "adapted", "baseline", pairs, resamples=1_000, seed=seed)
        found += row.verdict != "no difference detected"
    assert 0.02 < found / simulations < 0.065


def test_the_calibration_benchmark_runs() -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "calibration.py"
    command = [sys.executable, str(script), "--simulations", "4", "--sizes", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cells = [json.loads(line) for line in done.stdout.splitlines()]
    assert {cell["scenario"] for cell in cells} >= {"two copies", "label permutations"}
    assert done.returncode == (0 if all(cell["holds"] for cell in cells) else 1)
