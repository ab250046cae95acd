"""What a run will do, found out without loading a weight or training a step."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from veritune.config import Recipe, TrainSection
from veritune.data.prepare import Prepared
from veritune.model.hardware import Placement, available_bytes, choose_placement
from veritune.model.load import empty_model, located
from veritune.model.lora import Coverage, attach_lora, coverage
from veritune.pipeline.chosen_base import with_base, with_chosen
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.pipeline.full_finetune import STAGE, full_learning_rate
from veritune.pipeline.prepare import counts, prepare_rows
from veritune.pipeline.train import layout_for
from veritune.progress import Reporter
from veritune.rows import Example
from veritune.run_dir import RunDirectory
from veritune.train.batches import EncodedPair, Layout, audit_supervision, epoch_batches
from veritune.train.flops import WeightCounts, count_weights
from veritune.train.schedule import step_count


def make_plan(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """Resolve a recipe and say what it would do; writes nothing.

    Returns:
        Counts and estimates as ``plan --json`` prints them; see docs/concepts.md.  Of several
        base models, those of the first, and ``bases`` with the main numbers of each.
    """
    recipe = with_chosen(RunDirectory(Path(recipe.output_dir)), recipe)
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
        **_memory(
            pairs,
            recipe.train.batch_size,
            layout=layout,
            covered=covered,
            config=skeleton.config,
            placement=placement,
        ),
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
    source = target = real_source = real_target = supervised = 0
    for batch in planned_batches(recipe.train, pairs, n_steps, per_epoch, recipe.training_seed):
        padded = layout.row_tokens(batch)
        source += padded[0]
        target += padded[1]
        real_source += sum(len(pair.source_ids) for pair in batch)
        real_target += sum(len(pair.target_ids) for pair in batch)
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


def planned_batches(
    section: TrainSection,
    pairs: Sequence[EncodedPair],
    n_steps: int,
    per_epoch: int,
    seed: int,
) -> list[list[EncodedPair]]:
    """The batches a run of ``n_steps`` will see, in order."""
    batches: list[list[EncodedPair]] = []
    for epoch in range(math.ceil(n_steps / per_epoch)):
        steps_left = n_steps - epoch * per_epoch
        of_epoch = epoch_batches(pairs, section.batch_size, seed=seed, epoch=epoch)
        batches += of_epoch[: steps_left * section.accumulation_steps]
    return batches


def _memory(
    pairs: Sequence[EncodedPair],
    batch_size: int,
    *,
    layout: Layout,
    covered: Coverage,
    config: Any,
    placement: Placement,
) -> dict[str, int]:
    """Estimated bytes: frozen weights, adapter with its AdamW state, one batch's activations.

    Activations per token and layer: about 16 hidden-size and 4 intermediate-size values kept
    for the backward pass; logits: one value in the model's precision and two in fp32 per
    vocabulary entry.  An estimate, not a bound.
    """
    longest = sorted(pairs, key=lambda pair: -pair.n_tokens)[:batch_size]
    source, target = layout.row_tokens(longest)
    hidden = _size(config, "hidden_size", "d_model")
    inner = _size(config, "intermediate_size", "d_ff") or 4 * hidden
    layers = _size(config, "num_hidden_layers", "num_layers")
    width = placement.dtype.itemsize
    scored = sum(len(p.target_ids) for p in longest) if layout.padding == "packed" else source
    if layout.kind == "seq2seq":
        scored = target
    frozen = (covered.total_parameters - covered.trainable_parameters) * width
    adapter = covered.trainable_parameters * 16
    activations = (source + target) * layers * (16 * hidden + 4 * inner) * width
    logits = scored * int(config.vocab_size) * (width + 8)
    return {
        "memory_weights_bytes": frozen,
        "memory_adapter_bytes": adapter,
        "memory_activations_bytes": activations + logits,
        "memory_estimate_bytes": frozen + adapter + activations + logits,
        "memory_available_bytes": available_bytes(placement.device),
    }


def _size(config: Any, *names: str) -> int:
    """The first of some configuration entries that is there, 0 if none is."""
    return next((int(v) for name in names if (v := getattr(config, name, None))), 0)


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
