"""Published tasks away from the user's data: what the base could do, and still can."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from veritune.compare.systems import compare_systems
from veritune.data.benchmarks import read_benchmark
from veritune.pipeline.answers import Models
from veritune.pipeline.context import Context
from veritune.pipeline.functional import Runner, without_broken
from veritune.pipeline.kept_answers import keep_answers
from veritune.rows import Example, Prediction
from veritune.score.functional import PASS_AT_1, functional_score, run_answers, test_job

_SYSTEMS = ("adapted", "baseline")


def measure_benchmarks(context: Context, runner: Runner) -> list[dict[str, Any]]:
    """pass@1 of the adapted model and of the base on every benchmark the recipe names."""
    names = context.recipe.evaluate.benchmarks
    models = Models(context, []) if names and not runner.why_not else None
    return [_measure(context, name, runner, models) for name in names]


def _measure(context: Context, name: str, runner: Runner, models: Models | None) -> dict[str, Any]:
    recipe = context.recipe
    tasks = _sample(read_benchmark(name), recipe.evaluate.max_benchmark_tasks, recipe.seed)
    label = _safe(name)
    result: dict[str, Any] = {"name": label, "n_tasks": len(tasks), "why": runner.why_not}
    if models is None:
        return result
    usable, broken = without_broken(tasks, runner, allow=True)
    usable = [task for task in usable if task.tests]
    result |= {"n_tasks": len(usable), "broken_references": broken}
    if not usable:
        return {**result, "why": "no task has tests that its own solution passes"}
    outcomes = {}
    for system in _SYSTEMS:
        answers = keep_answers(
            context,
            context.run.benchmarks / label / f"{system}.jsonl",
            [system, label],
            usable,
            functools.partial(_ask, models, system),
            with_adapter=system == "adapted",
        )
        known = {task.example_id: task for task in usable}
        jobs = [test_job(known[row.example_id], row.code) for row in answers]
        executions = run_answers(jobs, runner.run)
        outcomes[system] = {
            row.example_id: done.outcome for row, done in zip(answers, executions, strict=True)
        }
    lost = {key for found in outcomes.values() for key, value in found.items() if value == "infra"}
    scores = {
        system: [
            functional_score(key, system, PASS_AT_1.name, outcome)
            for key, outcome in found.items()
            if key not in lost
        ]
        for system, found in outcomes.items()
    }
    row = compare_systems(
        PASS_AT_1.name,
        *_SYSTEMS,
        scores[_SYSTEMS[0]],
        scores[_SYSTEMS[1]],
        clusters={task.example_id: task.cluster_id for task in usable},
        resamples=recipe.evaluate.resamples,
        seed=recipe.seed,
    )
    return {
        **result,
        "metric": row.metric,
        "adapted": row.value,
        "baseline": row.against_value,
        "delta": row.delta,
        "ci_low": row.ci_low,
        "ci_high": row.ci_high,
        "p_value": row.p_value,
        "mde": row.mde,
        "verdict": row.verdict,
        "signature": row.signature,
        "n_infra": len(lost),
        "outcomes": {system: dict(Counter(found.values())) for system, found in outcomes.items()},
    }


def _ask(models: Models, system: str, tasks: Sequence[Example]) -> list[Prediction]:
    return models.answering(system).answer(system, tasks)


def _sample(tasks: Sequence[Example], size: int | None, seed: int) -> list[Example]:
    tasks = [replace(task, split="test") for task in tasks]
    if size is None or size >= len(tasks):
        return tasks
    chosen = np.random.default_rng([seed, 7]).choice(len(tasks), size=size, replace=False)
    return [tasks[index] for index in sorted(chosen)]


def _safe(name: str) -> str:
    stem = Path(name.removeprefix("mbpp:")).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem) or "benchmark"
