"""The learning curve: a sure gain promises more, a surely small one does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from veritune.compare.curve import learning_curve
from veritune.compare.statistics import estimate
from veritune.rows import Score

N = 60
CLUSTERS = {str(i): f"c{i // 2 if i < 8 else i}" for i in range(N)}


def scores(mean: float, *, seed: int = 0, spread: float = 0.1, n: int = N) -> list[Score]:
    draw = np.random.default_rng(seed).normal(mean, spread, n)
    return [
        Score(str(i), "adapted", "rougeL", float(x), "", (float(x), 1.0))
        for i, x in enumerate(draw)
    ]


def curve(adapted: dict[int, list[Score]], **changes: Any) -> dict[str, Any] | None:
    chosen: dict[str, Any] = {"clusters": CLUSTERS, "margin": 2.0, "resamples": 400, "seed": 0}
    return learning_curve(
        "rougeL", adapted, {16: scores(0.2)}, scores(0.1), **{**chosen, **changes}
    )


@pytest.mark.parametrize(
    ("last", "spread", "answer", "words"),
    [
        (0.50, 0.1, "would help", "More data would help: from 64 to 256 rows ROUGE-L changes by +"),
        (0.40, 0.01, "would not", "less than the 2 points that count"),
        (0.30, 0.01, "would not", "More data would not help"),
        (0.41, 0.3, "cannot be told", "Whether more data would help cannot be told"),
    ],
)
def test_the_answer_rests_on_the_two_largest_sizes(
    last: float, spread: float, answer: str, words: str
) -> None:
    found = curve(
        {
            256: scores(last, seed=2, spread=spread),
            16: scores(0.9),
            64: scores(0.40, seed=1, spread=spread),
        }
    )
    assert found is not None
    assert (found["answer"], found["last_step"]["from_rows"]) == (answer, 64)
    assert words in found["sentence"]


def test_rows_are_in_order_with_value_interval_and_retrieval() -> None:
    found = curve({256: scores(0.5), 16: scores(0.3, seed=4)})
    assert found is not None
    small, large = found["rows"]
    assert (small["n_rows"], large["n_rows"]) == (16, 256)
    values = np.array([row.value for row in scores(0.5)])
    assert large["value"] == pytest.approx(100 * values.mean())
    # The same clusters, summed by hand.
    names = [CLUSTERS[str(i)] for i in range(N)]
    sums = np.array(
        [
            [values[[n == name for n in names]].sum(), names.count(name)]
            for name in sorted(set(names))
        ]
    )
    oracle = estimate(lambda s: 100 * s[0][..., 0] / s[0][..., 1], [sums], resamples=400, seed=0)
    assert (large["ci_low"], large["ci_high"]) == (
        pytest.approx(oracle.low),
        pytest.approx(oracle.high),
    )
    assert small["retrieval"] == pytest.approx(100 * np.mean([r.value for r in scores(0.2)]))
    assert large["retrieval"] is None
    assert found["zero_shot"] == pytest.approx(100 * np.mean([r.value for r in scores(0.1)]))


def test_few_clusters_cannot_tell() -> None:
    found = curve({16: scores(0.1, n=20), 64: scores(0.9, n=20)})
    assert found is not None
    assert found["answer"] == "cannot be told"
    assert "needs at least 30 clusters" in found["sentence"]
    assert found["rows"][0]["ci_low"] is None


def test_one_size_is_no_curve() -> None:
    assert curve({256: scores(0.5)}) is None
