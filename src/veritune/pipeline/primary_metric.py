"""What ``primary_metric: auto`` stands for: decided on the rows, before any training."""

from __future__ import annotations

from dataclasses import replace

from veritune.atomic import write_text
from veritune.compare.statistics import MIN_CLUSTERS
from veritune.config import Recipe
from veritune.errors import RecipeError
from veritune.pipeline.context import Context, add_notices
from veritune.recipe_file import dump_recipe
from veritune.rows import read_examples
from veritune.sandbox.canaries import sandbox_here

MIN_TESTED_ROWS = 60


def fix_primary_metric(context: Context) -> None:
    """Write the choice into the run's resolved recipe, unless it is already made.

    ``pass_at_1`` where at least 60 test rows carry tests, in clusters enough for an interval, and
    the sandbox holds; else ``chrf``.

    Raises:
        RecipeError: ``pass_at_1`` is asked for, and no test row could ever measure it.
    """
    run, named = context.run, context.recipe.evaluate.primary_metric
    if named != "pass_at_1" and run.recipe().evaluate.primary_metric != "auto":
        return
    clusters = [row.cluster_id for row in read_examples(run.split_file("test")) if row.tests]
    tested = len(clusters)
    if named == "pass_at_1":
        # Of several bases one is chosen on validation first, which refuses for itself.
        several = len(context.recipe.model.names) > 1
        if not tested and not several and not run.is_trained():
            raise RecipeError(
                "evaluate.primary_metric is pass_at_1, but no test row carries tests",
                received=f"{run.split_file('test')}: 0 rows with tests",
                accepted="auto, chrf or another text metric; or rows with tests in the data",
                next_step="--set evaluate.primary_metric=auto",
            )
        return
    chosen = "chrf"
    if tested >= MIN_TESTED_ROWS:
        if (n_clusters := len(set(clusters))) < MIN_CLUSTERS:
            why = (
                f"the {tested} test rows with tests are in {n_clusters} clusters, too few for an"
                " interval"
            )
        elif not context.recipe.evaluate.run_answers:
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
