"""Answers become scores: one file per metric family, one line per metric in ``scoring``."""

from veritune.score.extract import extract_code
from veritune.score.lexer import lex
from veritune.score.metric import Measured, Metric
from veritune.score.scoring import (
    METRICS,
    TEXT_METRICS,
    corpus_value,
    metric_named,
    reference_scores,
    score_predictions,
)

__all__ = [
    "METRICS",
    "TEXT_METRICS",
    "Measured",
    "Metric",
    "corpus_value",
    "extract_code",
    "lex",
    "metric_named",
    "reference_scores",
    "score_predictions",
]
