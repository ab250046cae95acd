"""What ``primary_metric: auto`` stands for: decided on the rows, before any training."""

from __future__ import annotations

from dataclasses import replace

from veritune.atomic import write_text
from veritune.config import Recipe
from veritune.pipeline.context import Context, add_notices
from veritune.recipe_file import dump_recipe
from veritune.rows import read_examples
from veritune.sandbox.canaries import sandbox_here

MIN_TESTED_ROWS = 60


def fix_primary_metric(context: Context) -> None:
    """Write the choice into the run's resolved recipe, unless it is already made.

    ``pass_at_1`` where at least 60 test rows carry tests and the sandbox holds, else ``chrf``.
    """
    run = context.run
    if run.recipe().evaluate.primary_metric != "auto":
        return
    tested = sum(bool(row.tests) for row in read_examples(run.split_file("test")))
    chosen = "chrf"
    if tested >= MIN_TESTED_ROWS:
        if not context.recipe.evaluate.run_answers:
            why = "answers are not run"
        else:
            found = sandbox_here()
            why = found.missing
        if why:
            add_notices(run, [f"The primary metric is chrF instead of pass@1, since {why}."])
        else:
            chosen = "pass_at_1"
    write_text(run.recipe_file, dump_recipe(_with(context.recipe, chosen)))


def with_fixed_metric(context: Context) -> Context:
    """The context with the metric that the run's recipe fixed."""
    if context.recipe.evaluate.primary_metric != "auto":
        return context
    fix_primary_metric(context)
    fixed = context.run.recipe().evaluate.primary_metric
    return replace(context, recipe=_with(context.recipe, fixed))


def _with(recipe: Recipe, metric: str) -> Recipe:
    evaluate = recipe.evaluate.model_copy(update={"primary_metric": metric})
    return recipe.model_copy(update={"evaluate": evaluate})
