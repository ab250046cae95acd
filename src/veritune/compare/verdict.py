"""The verdict: is the adapted model better than the best of what was there before?

The best baseline is chosen on validation; test is only read for the comparison itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from veritune.compare.claims import FULL_FINETUNE, claims_table
from veritune.compare.gap import memorisation_gap, reproduction
from veritune.compare.loss_gap import loss_gap
from veritune.compare.pairs import pair
from veritune.compare.seeds import compare_over_seeds
from veritune.compare.sentence import verdict_sentence, zero_shot_sentence
from veritune.compare.significance import holm, mcnemar_p_value
from veritune.compare.statistics import MIN_CLUSTERS
from veritune.compare.tables import ScoreTable, generation_table, metric_table, reference_table
from veritune.compare.trainings import MainTraining, Trainings, averaged
from veritune.compare.variants import is_variant, without_variants
from veritune.errors import DataError
from veritune.rows import Comparison, Conclusion, Example, Loss, Prediction, Score
from veritune.score import METRICS, corpus_value

ADAPTED, BASELINE = "adapted", "baseline"
SIGNIFICANCE = 0.05
STAND_IN = "chrf"
"""Chooses the best baseline where the primary metric could not be measured."""
MERGED, REFERENCE = "merged", "reference"
"""Compared but never a baseline, being the adapted model once more; and no system at all."""


def conclude(
    examples: Sequence[Example],
    scores: Sequence[Score],
    predictions: Sequence[Prediction],
    *,
    primary_metric: str,
    seed: int,
    resamples: int,
    measured: Mapping[str, Any] | None = None,
    functional: Mapping[str, Any] | None = None,
    training: MainTraining | None = None,
    losses: Sequence[Loss] = (),
) -> Conclusion:
    """Compare ``adapted`` with every other system on test and say what it comes to.

    All corpus values, rates and differences are on 0–100.

    Args:
        examples: of all splits.
        scores: of all systems and splits; further trainings are told by ``variants``.
        predictions: that were scored.
        primary_metric: the metric of the verdict, fixed before training.
        seed: any whole number from 0.
        resamples: bootstrap resamples, and sign flips.
        measured: costs and latencies for the table of claims; None leaves the table out.
        functional: whether answers were run, and if not why (``available``, ``why``), with
            tables for the report.
        losses: of base and adapted model on the references of train and test questions.
        training: what made ``adapted``; needed where there are further trainings.

    Raises:
        DataError: scores of adapted or of every baseline are missing, belong to no example,
            or the systems do not answer the same test examples.
    """
    splits = {row.example_id: row.split for row in examples}
    clusters = {row.example_id: row.cluster_id for row in examples}
    further_scores = [row for row in scores if is_variant(row.system)]
    trainings = Trainings(training or MainTraining(seed, len(examples)), further_scores)
    scores, predictions = without_variants(scores), without_variants(predictions)
    table = _by_split_system_metric(scores, splits)
    metrics = [name for name in METRICS if ("test", ADAPTED, name) in table]
    others = sorted({s for split, s, _ in table if split == "test"} - {ADAPTED, REFERENCE})
    baselines = [name for name in others if name != MERGED]
    unrun = _why_not_run(primary_metric, metrics, functional)
    if unrun:
        wanted, primary_metric = primary_metric, STAND_IN
    _check_complete(table, metrics, baselines, primary_metric)

    best, chosen = _best_baseline(table, baselines, primary_metric)
    comparisons: list[Comparison] = []
    exact: list[dict[str, Any]] = []
    for other in (best, *(name for name in others if name != best)):
        for metric in metrics:
            sides = (table["test", ADAPTED, metric], table.get(("test", other, metric), ()))
            pairs = pair(metric, *sides, clusters)
            seeds = trainings.pairs(metric, pairs, sides[1], clusters)
            comparisons.append(
                compare_over_seeds(metric, ADAPTED, other, seeds, resamples=resamples, seed=seed)
            )
            if METRICS[metric].binary:
                exact.append(
                    {
                        "metric": metric,
                        "against": other,
                        "n": pairs.n_clusters,
                        "only_adapted": pairs.wins,
                        "only_against": pairs.losses,
                        "p_value": mcnemar_p_value(pairs.wins, pairs.losses),
                    }
                )
    primary = {row.against: row for row in comparisons if row.metric == primary_metric}
    sentence = verdict_sentence(primary[best], is_best=len(baselines) > 1)
    if best != BASELINE and BASELINE in primary:
        sentence += f" {zero_shot_sentence(primary[BASELINE])}"
    gap = _gap(table, metrics, clusters, resamples, seed)
    corrected = _holm(row for row in comparisons if row is not primary[best])
    further = trainings.details(
        table, primary_metric, clusters=clusters, resamples=resamples, seed=seed
    )
    details = {
        "best_baseline_choice": chosen,
        "metrics": averaged(metric_table(table), further.get("seeds")),
        "holm": corrected,
        "mcnemar": exact,
        "generation": generation_table(
            [row for row in predictions if splits.get(row.example_id) == "test"]
        ),
        "gap": gap,
        "memorisation": reproduction(*(_of_adapted(table, split) for split in ("train", "test"))),
        "loss_gap": loss_gap(losses, splits, clusters, seed=seed),
        "references": reference_table(examples),
        "not_measured": _not_measured(metrics, primary[best], gap, functional),
        "functional": dict(functional or {}),
        **further,
    }
    comparisons = list(_after_correction(comparisons, corrected))
    if measured is not None:
        quality = [row for row in comparisons if row.metric == primary_metric]
        details["claims"] = claims_table(
            measured,
            next((row for row in quality if row.against == FULL_FINETUNE), None),
            seed=seed,
        )
    verdict = primary[best].verdict
    if unrun:
        primary_metric, verdict = wanted, "not measured"
        label = METRICS[wanted].label
        sentence = f"Not measured: {label} of this run ({unrun}). By {STAND_IN}: {sentence}"
    return Conclusion(
        primary_metric=primary_metric,
        best_baseline=best,
        verdict=verdict,
        sentence=sentence,
        comparisons=tuple(comparisons),
        details=details,
    )


def _by_split_system_metric(scores: Iterable[Score], splits: Mapping[str, str]) -> ScoreTable:
    table: dict[tuple[str, str, str], list[Score]] = {}
    for row in sorted(scores, key=lambda row: row.example_id):
        if row.example_id not in splits:
            raise DataError(
                "a score belongs to no example",
                received=row.example_id,
                accepted="the ids of the prepared examples",
                next_step="score the predictions again",
            )
        table.setdefault((splits[row.example_id], row.system, row.metric), []).append(row)
    return table


def _check_complete(
    table: ScoreTable, metrics: Sequence[str], baselines: Sequence[str], primary_metric: str
) -> None:
    if not metrics or not baselines:
        raise DataError(
            "a verdict needs test scores of adapted and of a baseline",
            received=", ".join(sorted({s for split, s, _ in table if split == "test"})) or "none",
            accepted="adapted and at least one other system",
            next_step="evaluate the missing systems",
        )
    if primary_metric not in metrics:
        raise DataError(
            "the primary metric was not scored",
            received=primary_metric,
            accepted=", ".join(metrics),
            next_step="score the predictions on it, or name another primary metric",
        )


def _best_baseline(
    table: ScoreTable, baselines: Sequence[str], metric: str
) -> tuple[str, dict[str, Any]]:
    split, note = "validation", ""
    if any((split, name, metric) not in table for name in baselines):
        split = "test"
        note = (
            "Chosen on test, because not every baseline answered validation questions;"
            " this favours the baseline."
        )
    found = {name: table[split, name, metric] for name in baselines}
    shared = set.intersection(*({row.example_id for row in rows} for rows in found.values()))
    values = {
        name: corpus_value(metric, [row for row in rows if row.example_id in shared])
        for name, rows in found.items()
    }
    best = max(baselines, key=lambda name: values[name])
    return best, {
        "split": split,
        "metric": metric,
        "n_examples": len(shared),
        "values": values,
        "note": note,
    }


def _holm(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    rows = [(row, row.p_value) for row in comparisons if row.p_value is not None]
    adjusted = holm([p_value for _, p_value in rows])
    return [
        {"metric": row.metric, "against": row.against, "p_value": p_value, "p_holm": p_holm}
        for (row, p_value), p_holm in zip(rows, adjusted, strict=True)
    ]


def _after_correction(
    comparisons: Iterable[Comparison], corrected: Iterable[Mapping[str, Any]]
) -> tuple[Comparison, ...]:
    """Take back secondary verdicts that do not survive Holm; intervals stay as they are."""
    survivors = {
        (row["metric"], row["against"]) for row in corrected if row["p_holm"] < SIGNIFICANCE
    }
    lost = {(row["metric"], row["against"]) for row in corrected} - survivors
    return tuple(
        replace(row, verdict="no difference detected")
        if row.verdict in ("better", "worse") and (row.metric, row.against) in lost
        else row
        for row in comparisons
    )


def _gap(
    table: ScoreTable,
    metrics: Sequence[str],
    clusters: Mapping[str, str],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    def sides(split: str, metric: str) -> tuple[Sequence[Score], Sequence[Score]]:
        one, other = ((split, system, metric) for system in (ADAPTED, BASELINE))
        return table.get(one, ()), table.get(other, ())

    return [
        memorisation_gap(
            metric,
            train=sides("train", metric),
            test=sides("test", metric),
            clusters=clusters,
            resamples=resamples,
            seed=seed,
        )
        for metric in metrics
        if all((*sides("train", metric), *sides("test", metric)))
    ]


def _of_adapted(table: ScoreTable, split: str) -> list[Score]:
    return [
        row
        for (of, system, _), rows in table.items()
        if (of, system) == (split, ADAPTED)
        for row in rows
    ]


def _why_not_run(
    primary_metric: str, metrics: Sequence[str], functional: Mapping[str, Any] | None
) -> str:
    """Why a primary metric that runs answers has no scores; empty if it has, or runs none."""
    if primary_metric in metrics or METRICS[primary_metric].score is not None or not functional:
        return ""
    return str(functional.get("why") or "no test row carries tests")


def _not_measured(
    metrics: Sequence[str],
    primary: Comparison,
    gap: Sequence[Mapping[str, Any]],
    functional: Mapping[str, Any] | None,
) -> list[dict[str, str]]:
    rows = []
    why = str((functional or {}).get("why") or "")
    if "runs_clean" not in metrics:
        rows.append({"what": "runs_clean", "why": why or "answers were not run"})
    if "pass_at_1" not in metrics:
        rows.append({"what": "pass_at_1", "why": why or "no test row carries tests"})
    few = f"under {MIN_CLUSTERS} clusters an interval cannot be trusted"
    if primary.ci_low is None:
        rows.append({"what": "verdict", "why": f"{few}; there are {primary.n_clusters}"})
    if not gap:
        rows.append({"what": "memorisation gap", "why": "no training questions were asked"})
    elif any(row["ci_low"] is None for row in gap):
        rows.append({"what": "interval of the memorisation gap", "why": few})
    return rows
