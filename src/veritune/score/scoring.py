"""The table of metrics, and predictions turned into scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from veritune.errors import DataError, RecipeError
from veritune.rows import Example, Prediction, Score
from veritune.score.answers import AST_MATCH, EXACT_MATCH, PARSE_RATE, measure_parse_rate
from veritune.score.bleu import BLEU
from veritune.score.chrf import CHRF
from veritune.score.functional import PASS_AT_1, RUNS_CLEAN
from veritune.score.metric import Metric
from veritune.score.rouge import ROUGE_1, ROUGE_2, ROUGE_L

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        PASS_AT_1,
        RUNS_CLEAN,
        PARSE_RATE,
        EXACT_MATCH,
        AST_MATCH,
        CHRF,
        BLEU,
        ROUGE_1,
        ROUGE_2,
        ROUGE_L,
    )
}

TEXT_METRICS = tuple(name for name, metric in METRICS.items() if metric.score is not None)
"""Metrics that look at the text of an answer and never run it."""


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in METRICS:
        raise RecipeError(
            "there is no metric of that name",
            received=name,
            accepted=", ".join(METRICS),
            next_step="correct the name",
        )
    return METRICS[name]


def score_predictions(
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    metrics: Sequence[str] = TEXT_METRICS,
) -> list[Score]:
    """Score every greedy answer (``sample_index`` 0) on metrics of its text.

    Returns:
        Scores in the order of ``predictions``, then of ``metrics``.

    Raises:
        RecipeError: a metric does not exist.
        DataError: an answer to an unknown example, or a second answer of the same system.
    """
    wanted = [metric_named(name) for name in metrics]
    references = {example.example_id: example.reference for example in examples}
    seen: set[tuple[str, str]] = set()
    scores = []
    for row in predictions:
        if row.sample_index != 0:
            continue
        key = (row.example_id, row.system)
        if row.example_id not in references or key in seen:
            raise DataError(
                "a system answers the same example twice"
                if key in seen
                else "an answer belongs to no example",
                received=f"example {row.example_id}, system {row.system}",
                accepted="at most one answer per example and system",
                next_step="generate the predictions again",
            )
        seen.add(key)
        for metric in wanted:
            if metric.score is None:
                continue
            measured = metric.score(references[row.example_id], row.code)
            scores.append(Score(row.example_id, row.system, metric.name, *measured))
    return scores


def reference_scores(examples: Sequence[Example]) -> list[Score]:
    """The parse rate of the references themselves, as scores of a system ``reference``."""
    return [
        Score(row.example_id, "reference", "parse_rate", *measure_parse_rate("", row.reference))
        for row in examples
    ]


def corpus_value(metric: str, scores: Sequence[Score]) -> float:
    """The corpus metric (0–100) of one system's scores; 0 of no scores."""
    rows = [score.stats for score in scores if score.metric == metric]
    if not rows:
        return 0.0
    return float(metric_named(metric).corpus(np.array(rows, dtype=np.float64).sum(axis=0)))
