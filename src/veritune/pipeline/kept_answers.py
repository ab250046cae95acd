"""Answers on disk that are generated once, and again only if what decides them changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from veritune.pipeline.context import Context
from veritune.rows import Example, Prediction, read_predictions, write_predictions
from veritune.run_dir import digest


def keep_answers(
    context: Context,
    path: Path,
    what: list[Any],
    examples: Sequence[Example],
    answer: Callable[[Sequence[Example]], list[Prediction]],
    *,
    with_adapter: bool,
) -> list[Prediction]:
    """The answers in ``path`` if they are still those, else fresh ones, written there.

    Args:
        what: settings beyond the model's and the recipe's that decide the answers.
        with_adapter: whether they depend on the adapter's weights.
    """
    run, recipe = context.run, context.recipe
    name = str(path.relative_to(run.path))
    identity = digest(
        what,
        *([run.adapter] if with_adapter else []),
        recipe.model.model_dump(),
        recipe.evaluate.max_new_tokens,
        recipe.evaluate.batch_size,
        recipe.data.input,
        recipe.seed,
        [[row.example_id, row.instruction, row.input] for row in examples],
    )
    known = dict(run.manifest().get("kept_answers", {}))
    if known.get(name) == identity and path.is_file():
        context.reporter.say(f"  {name}: unchanged, kept")
        return read_predictions(path)
    answers = answer(examples)
    if known.pop(name, None):
        # Killed after the next line, it must not pass for what it was.
        run.update_manifest(kept_answers=known)
    write_predictions(path, answers)
    run.update_manifest(kept_answers={**known, name: identity})
    return answers
