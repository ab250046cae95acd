"""A learning curve: the primary metric against the number of training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from veritune.compare.pairs import pair
from veritune.compare.sentence import signed
from veritune.compare.statistics import MIN_CLUSTERS, estimate
from veritune.compare.systems import compare_pairs
from veritune.rows import Comparison, Score
from veritune.score import corpus_value, metric_named
from veritune.score.metric import Array

Answer = Literal["would help", "would not", "cannot be told"]


def learning_curve(
    metric: str,
    adapted: Mapping[int, Sequence[Score]],
    retrieval: Mapping[int, Sequence[Score]],
    baseline: Sequence[Score],
    *,
    clusters: Mapping[str, str],
    margin: float,
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """The curve with an interval at each size, and what its last step says.

    Args:
        metric: of the vertical axis.
        adapted: test scores by number of training rows, all rows included.
        retrieval: likewise, of retrieval from the same rows; may lack sizes.
        baseline: test scores of the base model zero-shot, possibly none.
        clusters: cluster of every example, by example id.
        margin: a gain in points below which more data is not worth having.
        resamples: bootstrap resamples.
        seed: any whole number from 0.

    Returns:
        None where only one size was trained.
    """
    sizes = sorted(adapted)
    if len(sizes) < 2:
        return None
    before, last = sizes[-2:]
    step = compare_pairs(
        metric,
        "adapted",
        "adapted",
        pair(metric, adapted[last], adapted[before], clusters),
        resamples=resamples,
        seed=seed,
    )
    answer = _answer(step, margin)
    rows = []
    for size in sizes:
        low, high = value_interval(metric, adapted[size], clusters, resamples=resamples, seed=seed)
        rows.append(
            {
                "n_rows": size,
                "value": corpus_value(metric, adapted[size]),
                "ci_low": low,
                "ci_high": high,
                "retrieval": corpus_value(metric, retrieval[size]) if size in retrieval else None,
            }
        )
    return {
        "metric": metric,
        "rows": rows,
        "zero_shot": corpus_value(metric, baseline) if baseline else None,
        "last_step": {
            "from_rows": before,
            "to_rows": last,
            "delta": step.delta,
            "ci_low": step.ci_low,
            "ci_high": step.ci_high,
        },
        "answer": answer,
        "sentence": _sentence(step, answer, (before, last), margin),
    }


def value_interval(
    metric: str,
    scores: Sequence[Score],
    clusters: Mapping[str, str],
    *,
    resamples: int,
    seed: int,
) -> tuple[float | None, float | None]:
    """The 95 % interval of one system's corpus value; None, None under ``MIN_CLUSTERS``."""
    pairs = pair(metric, scores, scores, clusters)

    def value(sums: Sequence[Array]) -> Array:
        return np.asarray(metric_named(metric).corpus(sums[0]))

    found = estimate(value, [pairs.system], resamples=resamples, seed=seed)
    return found.low, found.high


def _answer(step: Comparison, margin: float) -> Answer:
    """A gain that is sure promises another; one that is surely small does not."""
    if step.ci_low is None or step.ci_high is None:
        return "cannot be told"
    if step.ci_low > 0:
        return "would help"
    return "would not" if step.ci_high < margin else "cannot be told"


def _sentence(step: Comparison, answer: Answer, sizes: tuple[int, int], margin: float) -> str:
    claim = {
        "would help": "More data would help",
        "would not": "More data would not help",
        "cannot be told": "Whether more data would help cannot be told",
    }[answer]
    label = metric_named(step.metric).label
    numbers = (
        f"from {sizes[0]:,} to {sizes[1]:,} rows {label} changes by {signed(step.delta)} points"
    )
    if step.ci_low is None or step.ci_high is None:
        reason = f"an interval needs at least {MIN_CLUSTERS} clusters, and there are"
        return f"{claim}: {numbers}; {reason} {step.n_clusters}."
    interval = f"[{signed(step.ci_low)}, {signed(step.ci_high)}]"
    ending = f", less than the {margin:g} points that count" if answer == "would not" else ""
    return f"{claim}: {numbers} {interval}{ending}."
