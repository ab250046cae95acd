"""The choice, on validation only, and how the chosen configuration becomes an ordinary run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from veritune.atomic import write_json, write_text
from veritune.config import Recipe
from veritune.model.adapter import CONFIG, WEIGHTS
from veritune.model.hardware import describe_hardware
from veritune.model.load import empty_model
from veritune.model.lora import attach_lora, coverage
from veritune.pipeline.context import Context, add_notices
from veritune.pipeline.evaluate import choose_examples
from veritune.pipeline.sub_runs import answers_of, open_sub_run
from veritune.pipeline.swept import ENTRY, asked, swept, with_settings
from veritune.pipeline.train import train_inputs
from veritune.pipeline.validation_value import refuse_unmeasurable, validation_values
from veritune.recipe_file import dump_recipe
from veritune.sweep.bench import Bench
from veritune.sweep.results import Progress, Result, ranking
from veritune.sweep.space import configuration
from veritune.sweep.sweep import FOLDER
from veritune.train.flops import count_weights

TABLE = "table.json"
_ROWS_IN_THE_MANIFEST = 10


def refuse_unchoosable(context: Context) -> None:
    """Say before anything is trained that finalists could not be compared.

    Raises:
        EnvironmentFault: their answers would have to be run, and are not.
        DataError: they would have to pass tests, and there are none.
    """
    recipe = context.recipe
    if recipe.sweep_search.select == "primary_metric":
        asked_rows = choose_examples(context.run, recipe.evaluate, recipe.seed).validation
        instead = "--set sweep_search.select=validation_loss"
        refuse_unmeasurable(context, asked_rows, "the finalists", instead)


def choose(context: Context, bench: Bench, progress: Progress) -> Context:
    """Write the table and the choice; the context with the winner's settings."""
    recipe, keep = context.recipe, context.recipe.train.keep
    ranked = ranking(progress.results, keep)
    finished = [row for row in ranked if row.status == "finished"]
    finalists: dict[int, dict[str, Any]] = {}
    winner = finished[0]
    if recipe.sweep_search.select == "primary_metric":
        finalists = _finals(context, bench, progress, finished[: recipe.sweep_search.finalists])
        winner = max(finished, key=lambda row: (_value(finalists, row), -ranked.index(row)))
        ranked = [*sorted(finished, key=lambda row: -_value(finalists, row)), *ranked]
        ranked = list({row.number: row for row in ranked}.values())
    rows = [
        _row(recipe, row, rank, finalists.get(row.number))
        for rank, row in enumerate(
            [*ranked, *(row for row in progress.results if row.status == "repeated")], 1
        )
    ]
    record = {
        "asked": asked(recipe),
        "method": recipe.sweep_search.method,
        "n_configurations": len(ranked),
        **{
            f"n_{status}": sum(row.status == status for row in ranked)
            for status in ("finished", "stopped", "diverged")
        },
        "n_validation": len(bench.validation),
        "select": recipe.sweep_search.select,
        "metric": recipe.evaluate.primary_metric,
        "n_asked": len(choose_examples(context.run, recipe.evaluate, recipe.seed).validation),
        "chosen": winner.number,
        "settings": winner.settings,
        "validation_loss": winner.loss(keep),
        "steps": sum(row.step for row in progress.results),
        "seconds": round(sum(row.seconds for row in progress.results), 3),
        "rows": rows[:_ROWS_IN_THE_MANIFEST],
    }
    write_json(progress.folder / TABLE, {**record, "rows": rows})
    if swept(context.run) != record:
        context.run.update_manifest(**{ENTRY: record})
    context.reporter.say(
        f"sweep: number {winner.number} of {len(ranked)} has the best"
        f" {_what(recipe)} and becomes the run ({shown(winner.settings)})"
    )
    chosen = Context(context.run, with_settings(recipe, winner.settings), context.reporter)
    write_text(context.run.recipe_file, dump_recipe(chosen.recipe))
    adopt(chosen, bench, progress, winner)
    return chosen


def shown(settings: dict[str, Any]) -> str:
    """Settings on one line, such as ``lora.r 4, train.learning_rate 0.001``."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in settings.items()
    )


def read_table(context: Context) -> dict[str, Any]:
    """Every configuration and the choice, as ``sweep --json`` prints them."""
    path = context.run.path / FOLDER / TABLE
    return dict(json.loads(path.read_text(encoding="utf-8")))


def adopt(context: Context, bench: Bench, progress: Progress, result: Result) -> None:
    """Let a configuration's training be that of a run, unless it is already."""
    run, recipe = context.run, context.recipe
    inputs = train_inputs(run, recipe)
    if run.up_to_date("train", inputs, [run.adapter / WEIGHTS, run.adapter / CONFIG]):
        return
    own, keep = result, recipe.train.keep
    trains = configuration(bench.recipe, own.number, own.settings)
    trainers = bench.trainers(joint=bench.shares(trains), slots=1)
    assert own.best is not None, "the state of a finalist is kept"
    state = progress.tensors(own.best, bench.placement.device)
    trainers.restore(0, trains, state)
    location = bench.loaded.reference.location or recipe.model.name
    trainers.save(0, run.adapter, base_name=location)
    trainers.stop(0)
    skeleton = attach_lora(
        empty_model(recipe.model)[0],
        recipe.lora.model_copy(update={"init": "default"}),
        seed=recipe.training_seed,
    )
    summary = _summary(bench, own, count_weights(skeleton), keep)
    first = {"event": "start", "step": 0, "n_steps": own.n_steps, "n_train": len(bench.train)}
    best = own.kept("best")
    events = [
        {**first, "seed": recipe.training_seed},
        *(
            {
                "event": "evaluation",
                **row,
                "best": row["validation_loss"] <= best["validation_loss"],
            }
            for row in own.evaluations
        ),
        {"event": "end", "step": own.step, **summary},
    ]
    write_text(run.train_log, "".join(json.dumps(event) + "\n" for event in events))
    add_notices(run, [bench.loaded.reference.notice])
    run.update_manifest(
        hardware=describe_hardware(bench.placement),
        model={
            "name": bench.loaded.reference.name,
            "description": bench.loaded.description,
            "revision": bench.loaded.revision,
            **coverage(skeleton).to_json(),
        },
    )
    run.finish_stage("train", inputs, own.seconds, summary=summary)


def _summary(bench: Bench, result: Result, weights: Any, keep: Any) -> dict[str, Any]:
    """As ``train.loop`` makes it; a round's seconds are divided by those who shared it."""
    counts, seconds = result.counts, max(result.seconds, 1e-9)
    is_seq2seq = bench.layout.kind == "seq2seq"
    target = counts["supervised_tokens"] if is_seq2seq else 0
    source = counts["real_tokens"] - target
    best = result.kept("best")
    return {
        "global_step": result.step,
        "n_steps": result.n_steps,
        "epoch": result.evaluations[-1]["epoch"],
        "training_loss": counts["training_loss"],
        "train_runtime": round(seconds, 3),
        "train_steps_per_second": round(result.step / seconds, 4),
        "train_tokens_per_second": round(counts["real_tokens"] / seconds, 2),
        "total_flos": weights.total_flos(source),
        "model_flops": weights.model_flops(source, target),
        "supervised_tokens": counts["supervised_tokens"],
        "real_tokens": counts["real_tokens"],
        "padded_tokens": counts["padded_tokens"],
        "best_step": best["step"],
        "best_validation_loss": best["validation_loss"],
        "kept_step": result.kept(keep)["step"],
        "stopped_early": result.step < result.n_steps,
        "trained_in_a_sweep": True,
    }


def _finals(
    context: Context, bench: Bench, progress: Progress, finalists: Sequence[Result]
) -> dict[int, dict[str, Any]]:
    """The primary metric of each finalist's answers to the validation questions."""
    recipe = context.recipe
    asked_rows = choose_examples(context.run, recipe.evaluate, recipe.seed).validation
    found = {}
    for place, row in enumerate(finalists, 1):
        single = with_settings(recipe, row.settings).model_copy(
            update={
                "sweep": {},
                "seeds": recipe.seeds[:1],
                "evaluate": recipe.evaluate.model_copy(update={"curve": []}),
            }
        )
        name = f"finalist {place} of {len(finalists)}"
        sub_run = open_sub_run(context, f"{FOLDER}/finalists/{row.number}", name, single)
        adopt(sub_run, bench, progress, row)
        answers = answers_of(sub_run, {"adapted": asked_rows})
        found[row.number] = validation_values(sub_run, asked_rows, answers)["adapted"]
    return found


def _row(
    recipe: Recipe, result: Result, rank: int, metric: dict[str, Any] | None
) -> dict[str, Any]:
    keep = recipe.train.keep
    loss = result.loss(keep)
    return {
        "rank": rank if result.status != "repeated" else None,
        "number": result.number,
        "settings": result.settings,
        "status": result.status,
        "reason": result.reason,
        "steps": result.step,
        "n_steps": result.n_steps,
        "validation_loss": loss if math.isfinite(loss) else None,
        "best_step": result.kept(keep).get("step"),
        "seconds": round(result.seconds, 3),
        **({"metric": metric} if metric else {}),
    }


def _value(finalists: dict[int, dict[str, Any]], result: Result) -> float:
    value = finalists.get(result.number, {}).get("value")
    return -math.inf if value is None else float(value)


def _what(recipe: Recipe) -> str:
    if recipe.sweep_search.select == "primary_metric":
        return f"{recipe.evaluate.primary_metric} on validation among the finalists"
    return "validation loss"
