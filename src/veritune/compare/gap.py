"""Memorisation: what the adapted model gains on its training rows and not on unseen ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from veritune.compare.pairs import Pairs, pair
from veritune.compare.statistics import estimate
from veritune.rows import Score
from veritune.score import metric_named
from veritune.score.metric import Array

_REPRODUCING = ("exact_match", "ast_match")


def memorisation_gap(
    metric: str,
    *,
    train: tuple[Sequence[Score], Sequence[Score]],
    test: tuple[Sequence[Score], Sequence[Score]],
    clusters: Mapping[str, str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The difference in differences of one metric, on 0–100.

    ``difference`` = (adapted on train - adapted on test) - (baseline on train - baseline on
    test); the clusters of train and of test are resampled independently of each other.

    Args:
        metric: name of the metric.
        train, test: scores of the adapted model and of the baseline on that split.
        clusters: cluster of every example, by example id.
        resamples: bootstrap resamples.
        seed: any whole number from 0.

    Raises:
        DataError: the two systems do not answer the same examples.
    """
    seen, unseen = pair(metric, *train, clusters), pair(metric, *test, clusters)
    corpus, width = metric_named(metric).corpus, seen.system.shape[1]

    def difference(sums: Sequence[Array]) -> Array:
        gains = [corpus(part[..., :width]) - corpus(part[..., width:]) for part in sums]
        return np.asarray(gains[0] - gains[1])

    groups = [np.concatenate([part.system, part.against], axis=1) for part in (seen, unseen)]
    result = estimate(difference, groups, resamples=resamples, seed=seed)
    (adapted_train, baseline_train), (adapted_test, baseline_test) = (
        _values(metric, part) for part in (seen, unseen)
    )
    return {
        "metric": metric,
        "baseline_train": baseline_train,
        "baseline_test": baseline_test,
        "adapted_train": adapted_train,
        "adapted_test": adapted_test,
        "difference": result.value,
        "ci_low": result.low,
        "ci_high": result.high,
        "n_train": seen.n_examples,
        "n_test": unseen.n_examples,
    }


def reproduction(train: Sequence[Score], test: Sequence[Score]) -> dict[str, Any]:
    """How many answers of one system are the reference itself, in percent, and in words.

    Args:
        train, test: the system's scores on that split.

    Returns:
        Rates are None where nothing was scored.  The sentence counts answers that equal the
        reference as text or as syntax tree.
    """
    splits = {"train": train, "test": test}
    rates = {
        f"{name.removesuffix('_match')}_rate_{split}": _rate(scores, (name,))
        for name in _REPRODUCING
        for split, scores in splits.items()
    }
    seen, unseen = (_rate(scores, _REPRODUCING) for scores in splits.values())
    parts = [
        f"{rate:.0f} % of {what}"
        for rate, what in ((seen, "its training answers"), (unseen, "unseen ones"))
        if rate is not None
    ]
    sentence = f"It reproduces {' and '.join(parts)}." if seen is not None else ""
    return {**rates, "sentence": sentence}


def _rate(scores: Sequence[Score], metrics: Sequence[str]) -> float | None:
    hits: dict[str, bool] = {}
    for row in scores:
        if row.metric in metrics:
            hits[row.example_id] = hits.get(row.example_id, False) or row.value > 0
    return 100.0 * sum(hits.values()) / len(hits) if hits else None


def _values(metric: str, pairs: Pairs) -> tuple[float, float]:
    corpus = metric_named(metric).corpus
    return float(corpus(pairs.system.sum(axis=0))), float(corpus(pairs.against.sum(axis=0)))
