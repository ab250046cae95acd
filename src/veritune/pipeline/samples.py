"""Several sampled answers a question, for pass@k."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from veritune.compare.pass_at_k import pass_at_k_table
from veritune.generate.decode import Sampling
from veritune.pipeline.answers import Models
from veritune.pipeline.context import Context
from veritune.pipeline.functional import Runner
from veritune.pipeline.kept_answers import keep_answers
from veritune.rows import Example, Prediction
from veritune.score.functional import run_answers, test_job

_SYSTEMS = ("adapted", "baseline")


def _ask(
    models: Models, system: str, sampling: Sampling, examples: Sequence[Example]
) -> list[Prediction]:
    return models.answering(system).answer(system, examples, sampling)


def measure_samples(context: Context, test: Sequence[Example], runner: Runner) -> dict[str, Any]:
    """pass@k of the adapted model and the base; empty unless the recipe asks for samples."""
    recipe, section = context.recipe, context.recipe.evaluate.samples
    if section.n == 0:
        return {}
    examples = [row for row in test if row.tests]
    if runner.why_not or not examples:
        return {"rows": [], "why": runner.why_not or "no test row carries tests"}
    sampling = Sampling(section.n, section.temperature, section.top_p, recipe.seed)
    models = Models(context, [])
    passes: dict[str, dict[str, list[bool]]] = {}
    known = {row.example_id: row for row in examples}
    for system in _SYSTEMS:
        answers = keep_answers(
            context,
            context.run.samples / f"{system}.jsonl",
            [system, section.model_dump()],
            examples,
            functools.partial(_ask, models, system, sampling),
            with_adapter=system == "adapted",
        )
        jobs = [test_job(known[row.example_id], row.code) for row in answers]
        executions = run_answers(jobs, runner.run)
        # A failure of the sandbox makes a question unusable, for both systems.
        lost = {
            row.example_id
            for row, done in zip(answers, executions, strict=True)
            if done.outcome == "infra"
        }
        found: dict[str, list[bool]] = {}
        for row, done in zip(answers, executions, strict=True):
            if row.example_id not in lost:
                found.setdefault(row.example_id, []).append(done.outcome == "pass")
        passes[system] = found
    rows = pass_at_k_table(
        passes,
        {row.example_id: row.cluster_id for row in examples},
        system=_SYSTEMS[0],
        against=_SYSTEMS[1],
        resamples=recipe.evaluate.resamples,
        seed=recipe.seed,
    )
    return {"rows": rows, "temperature": section.temperature, "top_p": section.top_p}
