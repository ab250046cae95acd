"""What a run will do, found out without loading a weight or training a step."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from veritune.config import Recipe
from veritune.data.prepare import Prepared
from veritune.model.hardware import Placement, available_bytes, choose_placement
from veritune.model.load import empty_model, located
from veritune.model.lora import attach_lora, coverage
from veritune.pipeline.chosen_base import with_base, with_chosen
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.pipeline.full_finetune import STAGE, full_learning_rate
from veritune.pipeline.machine import undoable
from veritune.pipeline.prepare import counts, prepare_rows
from veritune.pipeline.swept import with_winner
from veritune.pipeline.train import engine_note, layout_for, memory_estimator, will_recompute
from veritune.progress import Reporter
from veritune.rows import Example
from veritune.run_dir import RunDirectory
from veritune.train.batches import EncodedPair, Layout, audit_supervision, epoch_batches
from veritune.train.flops import WeightCounts, count_weights
from veritune.train.memory import Estimator
from veritune.train.schedule import step_count

_LAID_OUT_PAIRS = 200_000
"""Pairs whose batches a plan lays out one by one, all epochs together."""


def make_plan(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """Resolve a recipe and say what it would do; writes nothing.

    Returns:
        Counts and estimates as ``plan --json`` prints them; see docs/concepts.md.  Of several
        base models, those of the first, and ``bases`` with the main numbers of each.
    """
    run = RunDirectory(Path(recipe.output_dir))
    recipe = with_chosen(run, with_winner(run, recipe))
    prepared = prepare_rows(recipe, reporter)
    plans = [_plan(with_base(recipe, name), prepared) for name in recipe.model.names]
    bases = [{name: plan[name] for name in _OF_EACH_BASE} for plan in plans]
    return {**plans[0], **({"bases": bases} if len(bases) > 1 else {})}


_OF_EACH_BASE = (
    "model",
    "kind",
    "trainable_parameters",
    "total_parameters",
    "n_steps",
    "total_flos",
    "memory_estimate_bytes",
)


def _plan(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    encoder = make_encoder(recipe)
    train = [row for row in prepared.examples if row.split == "train"]
    validation = [row for row in prepared.examples if row.split == "validation"]
    pairs = encoder.pairs(train)
    audit_supervision(pairs, encoder.format.end_id)
    skeleton, _ = empty_model(recipe.model)
    layout = layout_for(recipe, encoder, [*pairs, *encoder.pairs(validation)], skeleton.config)
    model = attach_lora(skeleton, recipe.lora, seed=recipe.seed)
    covered = coverage(model)
    placement = choose_placement(recipe.model)
    return {
        "model": located(recipe.model).name,
        "kind": encoder.kind,
        **covered.to_json(),
        **counts(prepared.card),
        **_work(recipe, pairs, layout, count_weights(model)),
        "max_source_tokens": max(len(pair.source_ids) for pair in pairs),
        "max_target_tokens": max(len(pair.target_ids) for pair in pairs),
        "dropped": {
            step["name"]: step["dropped"] for step in prepared.card["steps"] if step["dropped"]
        },
        "device": placement.device.type,
        "dtype": placement.dtype_name,
        "engine": engine_note(model, layout, pairs, recipe, placement),
        "not_on_this_machine": undoable(recipe, placement),
        **_memory(recipe, memory_estimator(recipe, model, layout, pairs, placement), placement),
        "primary_metric": recipe.evaluate.primary_metric,
        "systems": list(recipe.evaluate.systems),
        **(
            {"full_finetune_learning_rate": full_learning_rate(recipe)}
            if STAGE in recipe.evaluate.systems
            else {}
        ),
        "python": platform.python_version(),
        "example": _example(train[0], pairs[0], encoder),
    }


def _work(
    recipe: Recipe, pairs: Sequence[EncodedPair], layout: Layout, weights: WeightCounts
) -> dict[str, Any]:
    n_steps, per_epoch = step_count(recipe.train, len(pairs))
    source, target, real_source, real_target = _tokens(recipe, pairs, layout, n_steps, per_epoch)
    supervised = real_target
    real = real_source + real_target
    if layout.kind == "causal":
        real_source, real_target = real, 0
    return {
        "n_steps": n_steps,
        "steps_per_epoch": per_epoch,
        "supervised_tokens": supervised,
        "real_tokens": real,
        "padded_tokens": source + target,
        "padding_waste_percent": round(100 * (1 - real / (source + target)), 2),
        "total_flos": weights.total_flos(source),
        "model_flops": weights.model_flops(real_source, real_target),
    }


def _tokens(
    recipe: Recipe, pairs: Sequence[EncodedPair], layout: Layout, n_steps: int, per_epoch: int
) -> tuple[int, int, int, int]:
    """Padded source and target tokens and the real ones of a run of ``n_steps``.

    Every batch of the first epochs is laid out; later epochs hold the same rows and differ in
    their padding only, so they count as the mean of those.
    """
    section = recipe.train
    n_epochs = math.ceil(n_steps / per_epoch)
    laid_out = min(n_epochs, max(1, _LAID_OUT_PAIRS // len(pairs)))
    total = [0, 0, 0, 0]
    for epoch in range(laid_out):
        steps_left = n_steps - epoch * per_epoch
        of_epoch = epoch_batches(pairs, section.batch_size, seed=recipe.training_seed, epoch=epoch)
        for batch in of_epoch[: steps_left * section.accumulation_steps]:
            sources = sum(len(pair.source_ids) for pair in batch)
            targets = sum(len(pair.target_ids) for pair in batch)
            for place, n in enumerate((*layout.row_tokens(batch), sources, targets)):
                total[place] += n
    steps_laid_out = min(n_steps, laid_out * per_epoch)
    source, target, real_source, real_target = (n * n_steps // steps_laid_out for n in total)
    return source, target, real_source, real_target


def _memory(recipe: Recipe, estimate: Estimator, placement: Placement) -> dict[str, Any]:
    """Bytes at the peak of a step, and whether activations will be computed again.

    On a CPU the estimate is of resident memory, above what Python and its libraries take.
    """
    free = available_bytes(placement.device)
    recomputes = will_recompute(recipe, estimate, free)
    need = estimate.need(recipe.train.batch_size, recomputes=recomputes)
    return {
        "memory_weights_bytes": need.weights,
        "memory_adapter_bytes": need.adapter,
        "memory_activations_bytes": need.activations + need.passing,
        "memory_estimate_bytes": need.resident(free, placement.device),
        "memory_available_bytes": free,
        "activation_checkpointing": recomputes,
    }


def _example(example: Example, pair: EncodedPair, encoder: Encoder) -> dict[str, Any]:
    decode = encoder.format.tokenizer.decode
    return {
        "example_id": example.example_id,
        "prompt": decode(list(pair.source_ids)),
        "supervised": decode(list(pair.target_ids)),
        "prompt_tokens": len(pair.source_ids),
        "supervised_tokens": len(pair.target_ids),
        "loss_mask": [0] * len(pair.source_ids) + [1] * len(pair.target_ids),
    }
