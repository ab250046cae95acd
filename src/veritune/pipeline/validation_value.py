"""How good answers to the validation questions are, by the recipe's primary metric.

The choice of a base model and that of a sweep's finalists both rest on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from veritune.compare.curve import value_interval
from veritune.config import SystemName
from veritune.errors import DataError, EnvironmentFault
from veritune.pipeline.context import Context
from veritune.pipeline.functional import Runner, open_runner, run_all_answers, without_broken
from veritune.rows import Example, Prediction, Score
from veritune.score import TEXT_METRICS, corpus_value, score_predictions
from veritune.score.functional import PASS_AT_1


def refuse_unmeasurable(
    context: Context, examples: Sequence[Example], what: str, next_step: str
) -> None:
    """Say before anything is trained that a choice by the primary metric cannot be made.

    Args:
        what: cannot be compared, such as ``the base models``.
        next_step: the setting that chooses by something else.

    Raises:
        EnvironmentFault: the metric runs answers, and they are not run.
        DataError: a reference fails its own tests, or the metric counts passed tests and no
            question has any.
    """
    section = context.recipe.evaluate
    metric = section.primary_metric
    if metric in TEXT_METRICS:
        return
    runner = _runner(context)
    if why_not := runner.why_not:
        raise EnvironmentFault(
            f"{what} cannot be compared by {metric}, since answers are not run",
            received=why_not,
            accepted="a sandbox that holds, or a metric of the answer's text",
            next_step=next_step,
        )
    tested, _ = without_broken(examples, runner, allow=section.allow_broken_references)
    if metric == PASS_AT_1.name and not any(example.tests for example in tested):
        raise DataError(
            f"{what} cannot be compared by {metric}, since no validation question has tests",
            received=f"{len(examples)} validation questions without tests",
            accepted="at least one validation row with tests, better thirty",
            next_step=next_step,
        )


def validation_values(
    context: Context,
    examples: Sequence[Example],
    answers: Mapping[SystemName, Sequence[Prediction]],
) -> dict[str, dict[str, float | None]]:
    """By system, the corpus value (0 to 100) and its 95 % interval.

    Args:
        answers: by system, one to every example; run in the sandbox where the metric says so.

    Raises:
        DataError: nothing was measured: a reference fails its own tests, or no question of any
            system was left to count.
    """
    recipe = context.recipe
    metric = recipe.evaluate.primary_metric
    scores = _scores(context, examples, [row for rows in answers.values() for row in rows])
    clusters = {example.example_id: example.cluster_id for example in examples}
    found: dict[str, dict[str, float | None]] = {}
    for system in answers:
        own = [row for row in scores if row.system == system and row.metric == metric]
        if not own:
            raise DataError(
                f"{metric} could not be measured on validation",
                received=f"{len(examples)} questions, none with a result",
                accepted="at least one question whose answer could be judged",
                next_step="--set evaluate.primary_metric=chrf",
            )
        low, high = value_interval(
            metric, own, clusters, resamples=recipe.evaluate.resamples, seed=recipe.seed
        )
        found[system] = {"value": corpus_value(metric, own), "ci_low": low, "ci_high": high}
    return found


def _scores(
    context: Context, examples: Sequence[Example], answers: Sequence[Prediction]
) -> list[Score]:
    section = context.recipe.evaluate
    if section.primary_metric in TEXT_METRICS:
        return score_predictions(examples, answers, [section.primary_metric])
    runner = _runner(context)
    kept, broken = without_broken(examples, runner, allow=section.allow_broken_references)
    return run_all_answers(context, kept, answers, runner, broken)[0]


def _runner(context: Context) -> Runner:
    return open_runner(context.reporter, wanted=context.recipe.evaluate.run_answers)
