"""A gate passes or fails on the interval of the headline, at its very borders."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veritune.compare.gate import headline_of, judge
from veritune.compare.systems import verdict_of
from veritune.rows import Comparison

points = st.floats(-100, 100, allow_nan=False)


def compared(low: float | None, high: float | None, **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "metric": "chrf",
        "system": "adapted",
        "against": "retrieval",
        "n_examples": 60,
        "n_clusters": 50,
        "value": 40.0,
        "against_value": 38.0,
        "delta": 2.0 if low is None or high is None else (low + high) / 2,
        "ci_low": low,
        "ci_high": high,
        "p_value": None if low is None else 0.01,
        "mde": None,
        "signature": "",
        "verdict": verdict_of(low, high),
    }
    return Comparison(**{**values, **changes})


@pytest.mark.parametrize(
    ("required", "low", "passes"),
    [
        ("better", 0.0, False),
        ("better", 1e-9, True),
        ("better", -1e-9, False),
        ("not-worse", -2.0, False),
        ("not-worse", -1.999999, True),
        ("not-worse", 0.5, True),
    ],
)
def test_the_lower_end_must_lie_above_the_border_not_on_it(
    required: Any, low: float, passes: bool
) -> None:
    gate = judge(required, compared(low, 9.0), margin=2.0)
    assert gate.passed is passes
    assert "\n" not in gate.reason
    assert ("is above" in gate.reason) is passes


@given(points, points)
def test_a_pass_is_exactly_what_the_rule_says(one: float, other: float) -> None:
    low, high = sorted((one, other))
    row = compared(low, high)
    assert judge("better", row, margin=2.0).passed is (low > 0 and row.verdict == "better")
    assert judge("not-worse", row, margin=3.5).passed is (low > -3.5)


def test_better_needs_the_verdict_too() -> None:
    row = compared(1.0, 3.0, verdict="no difference detected")
    assert not judge("better", row, margin=2.0).passed


@pytest.mark.parametrize("required", ["better", "not-worse"])
def test_what_was_not_measured_fails(required: Any) -> None:
    gate = judge(required, compared(None, None), margin=100.0)
    assert not gate.passed
    assert gate.reason.startswith("not measured")
    assert "50 clusters" in gate.reason


def test_the_headline_is_the_best_baseline_on_the_primary_metric() -> None:
    from dataclasses import asdict

    rows = [
        compared(1.0, 2.0, metric=metric, against=other)
        for metric in ("parse_rate", "chrf")
        for other in ("retrieval", "baseline")
    ]
    conclusion = {
        "primary_metric": "chrf",
        "best_baseline": "baseline",
        "comparisons": [asdict(row) for row in rows],
    }
    assert headline_of(conclusion) == rows[3]
