"""Two finished runs, compared on the questions both kept for testing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from veritune.compare.sentence import signed
from veritune.compare.significance import holm
from veritune.compare.systems import compare_systems
from veritune.errors import DataError, RunDirectoryError
from veritune.rows import Example, Score, read_examples, read_scores
from veritune.run_dir import RunDirectory, open_run
from veritune.score import METRICS

_ADAPTED = "adapted"


def compare_runs(first: Path, second: Path, *, resamples: int = 10_000) -> dict[str, Any]:
    """Pair the adapted models of two runs on their common test questions.

    Questions that either run trained on, or chose by, are left out and counted.

    Returns:
        ``comparisons`` of ``first`` against ``second`` for every metric both have,
        ``n_common``, ``n_left_out``, ``max_new_tokens`` of both, the verdict on the first run's
        primary metric, and a sentence.

    Raises:
        RunDirectoryError: one of them is not an evaluated run.
        DataError: they have no test question in common.
    """
    runs = [_evaluated(path) for path in (first, second)]
    tests = [_examples(run, "test") for run in runs]
    shared = tests[0].keys() & tests[1].keys()
    used = {
        name for run in runs for split in ("train", "validation") for name in _examples(run, split)
    }
    leaked = shared & used
    scores = [_scores(run, shared - used) for run in runs]
    common = set.intersection(*(_answered(found) for found in scores))
    if not common:
        raise DataError(
            "the two runs have no test question in common",
            received=f"{len(tests[0])} and {len(tests[1])} test questions, {len(shared)} shared,"
            f" {len(leaked)} of them seen in training or validation",
            accepted="runs on the same data with the same seed and split",
            next_step="prepare both with the same data section and seed",
        )
    clusters = {name: tests[0][name].cluster_id for name in common}
    seed = runs[0].recipe().seed
    comparisons = []
    for metric in METRICS:
        one, other = (found.get(metric, {}) for found in scores)
        both = one.keys() & other.keys() & common
        if both:
            comparisons.append(
                compare_systems(
                    metric,
                    _label(first, second),
                    _label(second, first),
                    [one[name] for name in sorted(both)],
                    [other[name] for name in sorted(both)],
                    clusters=clusters,
                    resamples=resamples,
                    seed=seed,
                )
            )
    primary = runs[0].recipe().evaluate.primary_metric
    row = next((row for row in comparisons if row.metric == primary), comparisons[0])
    secondary = [item for item in comparisons if item is not row and item.p_value is not None]
    adjusted = holm([item.p_value for item in secondary if item.p_value is not None])
    interval = (
        "no interval: too few clusters"
        if row.ci_low is None
        else f"[{signed(row.ci_low)}, {signed(row.ci_high or 0.0)}]"
    )
    words = {
        "better": f"{row.system} is better than {row.against}",
        "worse": f"{row.system} is worse than {row.against}",
        "no difference detected": f"No difference detected between {row.system} and {row.against}",
        "not measured": f"Not measured whether {row.system} is better than {row.against}",
    }[row.verdict]
    sentence = (
        f"{words}: {METRICS[row.metric].label} {row.value:.1f} against {row.against_value:.1f},"
        f" {signed(row.delta)} points {interval} on {row.n_examples} common test questions"
        f" ({row.n_clusters} clusters)."
    )
    lengths = [run.recipe().evaluate.max_new_tokens for run in runs]
    if lengths[0] != lengths[1]:
        sentence += (
            f" Their answers may be {lengths[0]} and {lengths[1]} tokens long"
            " (evaluate.max_new_tokens), so the difference is not the adapters' alone."
        )
    return {
        "primary_metric": row.metric,
        "verdict": row.verdict,
        "sentence": sentence,
        "n_common": len(common),
        "n_left_out": len(leaked),
        "max_new_tokens": lengths,
        "comparisons": [asdict(item) for item in comparisons],
        "holm": [
            {"metric": item.metric, "p_value": item.p_value, "p_holm": p_holm}
            for item, p_holm in zip(secondary, adjusted, strict=True)
        ],
    }


def _evaluated(path: Path) -> RunDirectory:
    run = open_run(path)
    if not run.scores.is_file():
        raise RunDirectoryError(
            "the run has not been evaluated",
            received=path,
            accepted="a run directory after `veritune evaluate`",
            next_step=f"veritune evaluate {path}",
        )
    return run


def _examples(run: RunDirectory, split: str) -> dict[str, Example]:
    return {row.example_id: row for row in read_examples(run.split_file(split))}


def _scores(run: RunDirectory, names: set[str]) -> dict[str, dict[str, Score]]:
    found: dict[str, dict[str, Score]] = {}
    for row in read_scores(run.scores):
        if row.system == _ADAPTED and row.example_id in names:
            found.setdefault(row.metric, {})[row.example_id] = row
    return found


def _answered(found: dict[str, dict[str, Score]]) -> set[str]:
    return {name for rows in found.values() for name in rows}


def _label(path: Path, other: Path) -> str:
    name = path.resolve().name
    return name if name != other.resolve().name else str(path)
