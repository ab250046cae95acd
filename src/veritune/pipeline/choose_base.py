"""Several base models: each adapted on the same rows, the best on validation becomes the run.

The choice is made on validation; test is only read with the adapter that was chosen.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from typing import Any

from veritune.atomic import atomic_folder, write_text
from veritune.config import Recipe
from veritune.model.adapter import WEIGHTS
from veritune.model.load import kind_of, load_config
from veritune.pipeline.chosen_base import ENTRY, chosen_base, chosen_run, with_base
from veritune.pipeline.context import Context
from veritune.pipeline.evaluate import choose_examples
from veritune.pipeline.sub_runs import answers_of, open_sub_run, place_file
from veritune.pipeline.train import refuse_packed, train_inputs
from veritune.pipeline.validation_value import refuse_unmeasurable, validation_values
from veritune.recipe_file import dump_recipe
from veritune.rows import Example

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 64


def choose_base(context: Context) -> Context:
    """The context with one base model: as it is, or the best of the recipe's several."""
    names = context.recipe.model.names
    if isinstance(context.recipe.model.name_or_path, str):
        _adopt(context)
        return context
    recipe = context.recipe
    validation = choose_examples(context.run, recipe.evaluate, recipe.seed).validation
    for name in names:
        # Before the first is trained, not after.
        single = with_base(recipe, name)
        config = load_config(single.model)
        refuse_packed(single, kind_of(config), str(config.model_type))
    instead = "--set evaluate.primary_metric=chrf"
    refuse_unmeasurable(context, validation, "the base models", instead)
    rows = []
    for place, (name, folder) in enumerate(zip(names, folder_names(names), strict=True), 1):
        single = _single(with_base(recipe, name))
        label = f"base {place} of {len(names)}, {folder}"
        sub_run = open_sub_run(context, f"bases/{folder}", label, single)
        rows.append(_measured(sub_run, name, validation))
    best = max(rows, key=lambda row: float(row["adapted"]["value"]))
    context.reporter.say(
        f"bases: {best['name']} is best on {len(validation)} validation questions"
        f" ({best['metric']} {best['adapted']['value']:.1f} adapted) and becomes the run"
    )
    context.run.update_manifest(
        **{
            ENTRY: {
                "candidates": list(names),
                "chosen": best["name"],
                "n_validation": len(validation),
                "metric": recipe.evaluate.primary_metric,
                "rows": rows,
            }
        }
    )
    chosen = Context(context.run, with_base(recipe, best["name"]), context.reporter)
    write_text(context.run.recipe_file, dump_recipe(chosen.recipe))
    _adopt(chosen)
    return chosen


def folder_names(names: Sequence[str]) -> list[str]:
    """A folder name for each model: safe, and unique whatever the file system's case."""
    taken: set[str] = set()
    folders = []
    for name in names:
        last = name.rstrip("/").rpartition("/")[2].removeprefix("bundled:")
        plain = _NOT_IN_A_NAME.sub("-", last).strip(".-")[:_LONGEST_NAME] or "base"
        folder, count = plain, 1
        while folder.casefold() in taken:
            count += 1
            folder = f"{plain}-{count}"
        taken.add(folder.casefold())
        folders.append(folder)
    return folders


def _measured(sub_run: Context, name: str, validation: Sequence[Example]) -> dict[str, Any]:
    answers = answers_of(sub_run, {"baseline": validation, "adapted": validation})
    values = validation_values(sub_run, validation, answers)
    run, metric = sub_run.run, sub_run.recipe.evaluate.primary_metric
    model, summary = run.manifest().get("model", {}), run.stage_record("train").get("summary", {})
    return {
        "name": name,
        "folder": run.path.name,
        "metric": metric,
        "zero_shot": values["baseline"],
        "adapted": values["adapted"],
        "total_parameters": model.get("total_parameters"),
        "trainable_parameters": model.get("trainable_parameters"),
        "train_seconds": summary.get("train_runtime"),
        "tokens_per_second": summary.get("train_tokens_per_second"),
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        "adapter_bytes": (run.adapter / WEIGHTS).stat().st_size,
    }


def _single(recipe: Recipe) -> Recipe:
    """The recipe of one candidate: the run's own training seed, no further trainings."""
    evaluate = recipe.evaluate.model_copy(update={"curve": []})
    return recipe.model_copy(update={"seeds": recipe.seeds[:1], "evaluate": evaluate})


def _adopt(context: Context) -> None:
    """Take over the chosen candidate's training as the run's own, unless that is done."""
    record, run = chosen_base(context.run), context.run
    if not record or record["chosen"] != context.recipe.model.name_or_path:
        return
    source = chosen_run(run)
    inputs, training = train_inputs(run, context.recipe), source.stage_record("train")
    if training.get("inputs_sha256") != inputs or run.up_to_date(
        "train", inputs, [run.adapter / WEIGHTS, run.train_log]
    ):
        return
    with atomic_folder(run.adapter) as temporary:
        shutil.copytree(source.adapter, temporary, dirs_exist_ok=True)
    place_file(source.train_log, run.train_log)
    manifest = source.manifest()
    run.update_manifest(
        **{name: manifest[name] for name in ("hardware", "model") if name in manifest}
    )
    stages = {**run.manifest().get("stages", {}), "train": training}
    run.update_manifest(stages=stages)
