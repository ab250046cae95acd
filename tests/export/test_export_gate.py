"""The gate's arithmetic, on readings made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from veritune.errors import GateFailed
from veritune.export.gate import TOLERANCES, Gate, Tolerance, judge, refuse_failed
from veritune.export.readings import Reading
from veritune.rows import Example

TOLERANCE = Tolerance(logprob=0.05, likeliest=0.9, answers=0.75)
EXAMPLES = [Example(f"e{i}", f"c{i}", "test", f"question {i}", "", f"x = {i}\n") for i in range(40)]


def _reading(shift: float = 0.0, changed: int = 0, flipped: int = 0) -> Reading:
    """The adapter's reading, moved: log-probabilities, answers and likeliest tokens."""
    return Reading(
        answers=tuple("y" if i < changed else row.reference for i, row in enumerate(EXAMPLES)),
        logprobs=tuple(np.array([-1.0, -2.0]) - shift for _ in EXAMPLES),
        likeliest=tuple(np.array([7, 9 if i >= flipped else 1]) for i in range(len(EXAMPLES))),
    )


def _judge(export: Reading, base: Reading | None = None) -> Gate:
    return judge(
        export,
        _reading(),
        base or _reading(0.5, 40, 40),
        EXAMPLES,
        tolerance=TOLERANCE,
        by="test",
        resamples=500,
        seed=0,
    )


def test_figures_are_means_over_tokens_and_shares_of_questions() -> None:
    gate = _judge(_reading(0.03, 5, 4))
    assert gate.passed and gate.n_tokens == 80 and gate.n_clusters == 40
    assert gate.export.logprob == pytest.approx(0.03)
    assert gate.export.likeliest == pytest.approx(76 / 80)
    assert gate.export.same_answers == 35 and gate.base.same_answers == 0
    assert gate.chrf.delta < 0 and gate.chrf.ci_low is not None
    refuse_failed(gate)


@pytest.mark.parametrize(
    ("reading", "broken"),
    [
        (_reading(0.06), "difference of log-probabilities"),
        (_reading(0.0, 11), "share of greedy answers equal"),
        (_reading(0.0, 0, 20), "share of tokens that both find likeliest"),
    ],
)
def test_each_limit_fails_alone(reading: Reading, broken: str) -> None:
    gate = _judge(reading)
    assert next(row.name for row in gate.checks if not row.passed).startswith(broken)
    assert sum(not row.passed for row in gate.checks) == 1
    with pytest.raises(GateFailed, match=broken) as caught:
        refuse_failed(gate)
    assert caught.value.exit_code == 1


def test_long_answers_need_not_all_be_equal_to_the_letter() -> None:
    assert TOLERANCE.equal_answers([2] * 40) == 30
    # 0.9 to the tenth is 0.349.
    assert TOLERANCE.equal_answers([10] * 40) == 14
    assert TOLERANCE.equal_answers([1] * 20 + [500] * 20) == 18
    # A format whose tokens agree less can never ask for more answers.
    for length in (1, 5, 64, 500):
        wanted = [row.equal_answers([length] * 32) for row in TOLERANCES.values()]
        assert wanted == sorted(wanted, reverse=True)


def test_an_export_must_be_nearer_to_the_adapter_than_the_base_is() -> None:
    near = _judge(_reading(0.03), base=_reading(0.05, 40))
    assert not near.passed
    same = _judge(_reading(), base=_reading())
    assert [row.passed for row in same.checks] == [True, True, True, False, False]


def test_a_runtime_that_hides_its_distribution_is_judged_without_it() -> None:
    gate = _judge(replace(_reading(), likeliest=None))
    assert gate.passed and gate.export.likeliest is None and len(gate.checks) == 4
