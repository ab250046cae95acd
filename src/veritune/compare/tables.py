"""Tables of ``comparison.json`` that need no statistics; all rates are in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veritune.rows import SPLITS, Example, Prediction, Score
from veritune.score import corpus_value, metric_named, reference_scores
from veritune.score.code import is_empty, parse_failure

ScoreTable = Mapping[tuple[str, str, str], Sequence[Score]]
"""Scores by (split, system, metric)."""


def metric_table(table: ScoreTable) -> list[dict[str, Any]]:
    """The corpus value of every metric of every system on every split."""
    return [
        {
            "system": system,
            "split": split,
            "metric": metric,
            "value": corpus_value(metric, table[split, system, metric]),
            "n_examples": len(table[split, system, metric]),
            "signature": metric_named(metric).signature(),
        }
        for split, system, metric in sorted(table)
    ]


def generation_table(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """How each system's answers ended and whether they parse, before and after extraction."""
    systems: dict[str, list[Prediction]] = {}
    for row in predictions:
        if row.sample_index == 0:
            systems.setdefault(row.system, []).append(row)
    return [
        {
            "system": system,
            "n": len(rows),
            "truncated_rate": _percent([row.finish_reason == "length" for row in rows]),
            "no_eos_rate": _percent(
                [row.finish_reason not in ("stop", "retrieved") for row in rows]
            ),
            "empty_rate": _percent([is_empty(row.code) for row in rows]),
            "raw_parse_rate": _percent([_parses(row.raw) for row in rows]),
            "extracted_parse_rate": _percent([_parses(row.code) for row in rows]),
            "mean_new_tokens": sum(row.n_new_tokens for row in rows) / len(rows),
        }
        for system, rows in sorted(systems.items())
    ]


def reference_table(examples: Sequence[Example]) -> dict[str, float]:
    """The parse rate of the references of every split that has any."""
    rates: dict[str, float] = {}
    for split in SPLITS:
        if rows := [row for row in examples if row.split == split]:
            rates[split] = corpus_value("parse_rate", reference_scores(rows))
    return rates


def _parses(text: str) -> bool:
    return not is_empty(text) and parse_failure(text) is None


def _percent(hits: Sequence[bool]) -> float:
    return 100.0 * sum(hits) / len(hits)
