"""What the claims of LoRA are judged by, gathered from the run's own records and a stopwatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from veritune.generate.latency import latency_rounds
from veritune.model.hardware import choose_placement, describe_hardware
from veritune.model.prompt import PromptFormat
from veritune.pipeline.context import Context
from veritune.rows import Example
from veritune.run_dir import digest

NEW_TOKENS = 16
_MOST_PROMPTS = 8
Open = Callable[[], tuple[PromptFormat, dict[str, Any]]]


def measure_claims(context: Context, questions: Sequence[Example], opened: Open) -> dict[str, Any]:
    """The measurements that ``compare.claims`` turns into a table.

    Args:
        questions: the first few are the latency prompts.
        opened: gives the models to be timed; called only if they are timed now.
    """
    run = context.run
    model = run.manifest().get("model", {})
    hardware = run.manifest().get("hardware", {})
    trained = run.stage_record("full_finetune")
    asked = "full_finetune" in context.recipe.evaluate.systems
    return {
        "trainable_parameters": model.get("trainable_parameters"),
        "total_parameters": model.get("total_parameters"),
        "lora": {**_training(run.stage_record("train")), "hardware": hardware},
        "full_finetune": _training(trained) if asked else {},
        "latency": _latency(context, questions, opened),
    }


def _training(record: dict[str, Any]) -> dict[str, Any]:
    names = ("trainable_parameters", "learning_rate", "hardware")
    return {**record.get("summary", {}), **{key: record[key] for key in names if key in record}}


def _latency(context: Context, questions: Sequence[Example], opened: Open) -> dict[str, Any]:
    """Rounds of seconds per new token; kept in the manifest, as answers are."""
    run, recipe, rounds = context.run, context.recipe, context.recipe.evaluate.latency_rounds
    if not rounds:
        return {"reason": "evaluate.latency_rounds is 0"}
    if not questions:
        return {"reason": "there was no question to answer"}
    prompts = questions[: min(rounds, _MOST_PROMPTS)]
    hardware = describe_hardware(choose_placement(recipe.model))
    identity = digest(
        run.adapter,
        recipe.model.model_dump(),
        recipe.data.input,
        rounds,
        NEW_TOKENS,
        hardware,
        [[row.instruction, row.input] for row in prompts],
    )
    known = run.manifest().get("latency", {})
    if known.get("identity") == identity:
        return dict(known["measured"])
    wording, models = opened()
    context.reporter.say(f"  latency: {rounds} rounds of {', '.join(models)}")
    measured = {
        "new_tokens": NEW_TOKENS,
        "n_prompts": len(prompts),
        "rounds": latency_rounds(
            models,
            wording,
            [wording.prompt(row) for row in prompts],
            rounds=rounds,
            new_tokens=NEW_TOKENS,
        ),
    }
    run.update_manifest(latency={"identity": identity, "measured": measured})
    return measured
