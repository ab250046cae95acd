"""Several training seeds: the interval is wider by what the seeds differ, and says so."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from veritune.compare.pairs import Pairs
from veritune.compare.seeds import compare_over_seeds, seeds_table
from veritune.compare.sentence import verdict_sentence
from veritune.compare.systems import compare_pairs
from veritune.rows import Comparison, Score


def pairs(values: np.ndarray, other: np.ndarray) -> Pairs:
    """One training: a metric on 0–1, one example a cluster."""
    columns = (np.column_stack([part, np.ones(len(part))]) for part in (values, other))
    return Pairs(len(values), *columns, wins=0, losses=0)


def trainings(
    shifts: list[float], *, n_clusters: int = 50, seed: int = 0, noise: float = 0.1
) -> list[Pairs]:
    """Trainings that differ by a constant shift alone."""
    rng = np.random.default_rng(seed)
    other, gain = rng.random(n_clusters), rng.normal(0, noise, n_clusters)
    return [pairs(other + gain + shift, other) for shift in shifts]


def compared(shifts: list[float], **settings: int | float) -> Comparison:
    return compare_over_seeds(
        "rougeL", "adapted", "baseline", trainings(shifts, **settings), resamples=2_000, seed=0
    )


def test_one_seed_is_the_plain_comparison() -> None:
    one = trainings([0.05])
    plain = compare_pairs("rougeL", "adapted", "baseline", one[0], resamples=500, seed=3)
    assert compare_over_seeds("rougeL", "adapted", "baseline", one, resamples=500, seed=3) == plain


def test_seeds_that_agree_change_nothing_but_the_count() -> None:
    one, three = compared([0.05]), compared([0.05] * 3)
    assert (three.n_seeds, one.n_seeds) == (3, 1)
    assert three.delta == pytest.approx(one.delta)
    assert three.ci_low == pytest.approx(one.ci_low)
    assert three.ci_high == pytest.approx(one.ci_high)
    assert three.verdict == one.verdict


@pytest.mark.parametrize("shifts", [[0.0, 0.1], [0.02, 0.05, 0.11], [0.1, 0.1, 0.0, 0.2, 0.1]])
def test_the_half_width_over_seeds_is_the_textbooks(shifts: list[float]) -> None:
    """Shifts shared by all clusters leave the bootstrap alone, so the two parts can be told."""
    flat, row = compared([float(np.mean(shifts))]), compared(shifts)
    assert row.delta == pytest.approx(100 * np.mean(shifts) + compared([0.0]).delta)
    count = len(shifts)
    half = stats.t.ppf(0.975, count - 1) * 100 * np.std(shifts, ddof=1) / math.sqrt(count)
    assert flat.ci_low is not None and flat.ci_high is not None
    low = row.delta - math.hypot(flat.delta - flat.ci_low, half)
    high = row.delta + math.hypot(flat.ci_high - flat.delta, half)
    assert row.ci_low is not None
    assert row.ci_low == pytest.approx(min(low, 0) if low > 0 and row.p_value > 0.05 else low)
    assert row.ci_high == pytest.approx(high)


def test_two_seeds_that_disagree_take_a_verdict_back() -> None:
    assert compared([0.06]).verdict == "better"
    row = compared([0.02, 0.10])
    assert row.delta == pytest.approx(compared([0.06]).delta)
    assert row.verdict == "no difference detected"
    assert row.p_value is not None and row.p_value > 0.05


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-0.15, 0.15), min_size=2, max_size=4),
    st.integers(30, 60),
    st.integers(0, 1000),
)
def test_interval_p_value_and_verdict_always_agree(
    shifts: list[float], n_clusters: int, seed: int
) -> None:
    row = compare_over_seeds(
        "rougeL",
        "adapted",
        "baseline",
        trainings(shifts, n_clusters=n_clusters, seed=seed),
        resamples=200,
        seed=seed,
    )
    assert row.ci_low is not None and row.ci_high is not None and row.p_value is not None
    outside = row.ci_low > 0 or row.ci_high < 0
    assert outside is (row.p_value <= 0.05)
    assert outside is (row.verdict in ("better", "worse"))
    assert row.ci_low <= row.delta + 1e-9 and row.delta - 1e-9 <= row.ci_high
    assert row.mde is None or row.mde > 0


def test_few_clusters_stay_unmeasured_however_many_seeds() -> None:
    row = compared([0.1] * 5, n_clusters=29)
    assert (row.verdict, row.ci_low, row.p_value, row.mde) == ("not measured", None, None, None)


def test_the_sentence_and_the_signature_say_over_how_many_seeds() -> None:
    row = compared([0.1, 0.2, 0.15])
    assert "(95 % interval, 3 training seeds, 50 clusters;" in verdict_sentence(row, is_best=True)
    assert "t over 3 training seeds" in row.signature


@pytest.mark.parametrize(("n_seeds", "share"), [(2, 10.0), (3, 1.0)])
def test_the_interval_holds_the_truth_where_one_seeds_does_not(n_seeds: int, share: float) -> None:
    """A small simulation; benchmarks/seed_calibration.py is the large one."""
    rng = np.random.default_rng(1)
    n_clusters, repeats = 40, 150
    covered = single = 0
    for index in range(repeats):
        common = rng.normal(0, 0.1, n_clusters)
        shifts = rng.normal(0, 0.1 * math.sqrt(share * n_seeds / n_clusters), n_seeds)
        other = rng.random(n_clusters)
        found = [pairs(other + common + shift, other) for shift in shifts]
        for amount, name in ((n_seeds, "several"), (1, "one")):
            row = compare_over_seeds(
                "rougeL", "adapted", "baseline", found[:amount], resamples=200, seed=index
            )
            assert row.ci_low is not None and row.ci_high is not None
            holds = row.ci_low <= 0 <= row.ci_high
            covered += holds and name == "several"
            single += holds and name == "one"
    assert covered >= 0.91 * repeats
    assert single < 0.85 * repeats


def test_the_table_has_every_seed_and_its_spread() -> None:
    def scored(value: float) -> dict[str, list[Score]]:
        return {
            "exact_match": [
                Score(str(i), "adapted", "exact_match", value, "", (value, 1.0)) for i in range(4)
            ]
        }

    table = seeds_table({0: scored(0.5), 7: scored(0.25), 3: scored(0.75)}, "exact_match")
    assert table is not None
    assert table["seeds"] == [0, 7, 3]
    row = table["metrics"][0]
    assert row["values"] == [50.0, 25.0, 75.0]
    assert (row["mean"], row["sd"]) == (50.0, 25.0)
    assert table["sentence"] == (
        "Over 3 training seeds exact match is 50.0, 25.0 and 75.0 %:"
        " standard deviation 25.0 points."
    )
    assert seeds_table({0: scored(0.5)}, "exact_match") is None


def test_the_seed_calibration_benchmark_runs() -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "seed_calibration.py"
    command = [sys.executable, str(script), "--simulations", "4", "--counts", "2"]
    command += ["--resamples", "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cells = [json.loads(line) for line in done.stdout.splitlines()]
    assert {cell["n_seeds"] for cell in cells} == {2}
    assert done.returncode == (0 if all(cell["holds"] for cell in cells) else 1)
