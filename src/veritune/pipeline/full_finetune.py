"""The full fine-tuning baseline: every weight trained on what the adapter was trained on.

Same pairs, batches, schedule, number of steps, seed and rule of selection; only what is
trained and its learning rate differ.  The trained weights are kept in fp32: in bf16 an
update of 1e-5 on a weight of 1e-2 is below half a unit in the last place (2^-9 of the
weight) and would be rounded away.  Where the adapter's base is in bf16, matrix products run
in bf16 through autocast, so that both are trained at the speed of the same hardware.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from veritune.atomic import atomic_folder
from veritune.config import Recipe
from veritune.errors import OutOfMemory
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import (
    Placement,
    available_bytes,
    choose_placement,
    describe_hardware,
)
from veritune.model.load import LoadedModel, load_model
from veritune.model.memory import StepMemory
from veritune.pipeline.context import Context, add_notices
from veritune.pipeline.encode import make_encoder
from veritune.pipeline.hub_commits import refuse_moved_model
from veritune.pipeline.processes import placed, together
from veritune.pipeline.train import layout_for, will_recompute
from veritune.rows import read_examples
from veritune.run_dir import RunDirectory, digest
from veritune.train.batches import EncodedPair, Layout
from veritune.train.checkpoint import checkpoints
from veritune.train.flops import count_weights
from veritune.train.loop import Training
from veritune.train.memory import estimator
from veritune.train.ranks import Ranks, process_count

STAGE = "full_finetune"
WEIGHTS_CONFIG = "config.json"
_LOG = "train_log.jsonl"
_RATE_SHARE = 10
# Per weight, fp32: the weight, its gradient, two moments.
_TRAINING_BYTES = 16
# Per weight, fp32: weight and moments of a checkpoint twice (the older goes once the newer
# is whole), the best weights twice likewise, the result.
_DISK_BYTES = 2 * 12 + 2 * 4 + 4


def full_learning_rate(recipe: Recipe) -> float:
    """The peak learning rate of full fine-tuning.

    By default a tenth of the adapter's: LoRA's best rate is about ten times that of full
    fine-tuning over many models and data sets (Schulman et al., "LoRA Without Regret", 2025;
    Biderman et al., "LoRA Learns Less and Forgets Less", 2024), and a baseline at ten times
    its best rate would be no baseline.
    """
    chosen = recipe.train.full_learning_rate
    return recipe.train.learning_rate / _RATE_SHARE if chosen is None else chosen


def full_finetune_inputs(run: RunDirectory, recipe: Recipe) -> str:
    """Hash of everything that decides the fully fine-tuned weights."""
    return digest(
        STAGE,
        run.split_file("train"),
        run.split_file("validation"),
        recipe.model.model_dump(),
        recipe.train.model_dump(
            exclude={"full_learning_rate", "learning_rate", "compile", "activation_checkpointing"}
        ),
        full_learning_rate(recipe),
        recipe.data.input,
        recipe.seed,
    )


def full_finetune_stage(context: Context) -> None:
    """Write ``full_finetune/`` unless it is not asked for or up to date."""
    run, recipe = context.run, context.recipe
    if STAGE not in recipe.evaluate.systems:
        return
    inputs = full_finetune_inputs(run, recipe)
    if not context.skip(STAGE, inputs, [run.full_finetune / WEIGHTS_CONFIG]):
        _train(context, inputs)
    # Left behind where a run was killed after its weights were written.
    shutil.rmtree(checkpoint_folder(run), ignore_errors=True)


def checkpoint_folder(run: RunDirectory) -> Path:
    """Where its resumable states are while it trains."""
    return run.checkpoints / STAGE


def _train(context: Context, inputs: str) -> None:
    run, recipe = context.run, context.recipe
    started = time.perf_counter()
    placement = choose_placement(recipe.model)
    _clear_others(checkpoint_folder(run), inputs)
    with together(recipe, run, inputs, placement, STAGE) as ranks:
        summary = full_share(context, inputs, ranks, placed(placement, ranks))
    n_weights = summary.pop("trainable_parameters")
    run.finish_stage(
        STAGE,
        inputs,
        time.perf_counter() - started,
        summary=summary,
        learning_rate=full_learning_rate(recipe),
        trainable_parameters=n_weights,
        hardware=describe_hardware(placement),
    )


def full_share(context: Context, inputs: str, ranks: Ranks, placement: Placement) -> dict[str, Any]:
    """Train this process's share of all weights; the first process also writes them.

    Returns:
        The training summary, with the peak memory and ``trainable_parameters``.
    """
    run, recipe, reporter = context.run, context.recipe, context.reporter
    encoder = make_encoder(recipe)
    train = encoder.pairs(read_examples(run.split_file("train")))
    validation = encoder.pairs(read_examples(run.split_file("validation")))
    rate = full_learning_rate(recipe)
    reporter.say(
        f"{STAGE}: all weights of {recipe.model.name_or_path} on {len(train)} pairs, learning"
        f" rate {rate:g}, fp32 weights{_products(placement)} on {placement.device.type}"
        + (f", {ranks.size} processes" if ranks.size > 1 else "")
    )
    memory = StepMemory(placement.device)
    loaded = load_model(recipe.model, Placement(placement.device, torch.float32), seed=recipe.seed)
    refuse_moved_model(run, loaded)
    model = loaded.model.requires_grad_(True)
    n_weights = sum(p.numel() for p in model.parameters())
    _refuse_too_large(n_weights, placement.device)
    if encoder.kind == "seq2seq" and recipe.train.padding == "packed":
        # Its position bias trains here, and packed attention gives that no gradient.
        unpacked = recipe.train.model_copy(update={"padding": "longest_in_batch"})
        recipe = recipe.model_copy(update={"train": unpacked})
    layout = layout_for(recipe, encoder, [*train, *validation], model.config)
    if recipe.train.padding == "packed":
        use_packed_attention(model, max(pair.n_tokens for pair in [*train, *validation]))
    recomputes = _will_recompute(recipe, model, layout, train, placement)
    if recomputes:
        reporter.say("  activations are computed again instead of kept (a third slower)")
    _compute_in(model, placement)
    summary = Training(
        model=model,
        layout=layout,
        section=recipe.train.model_copy(update={"learning_rate": rate}),
        train=train,
        validation=validation,
        seed=recipe.seed,
        device=placement.device,
        folder=checkpoint_folder(run),
        log_path=checkpoint_folder(run) / _LOG,
        inputs_sha256=inputs,
        weights=count_weights(model),
        reporter=reporter,
        watch=memory.watch,
        resumable=_has_room(context, n_weights, ranks),
        ranks=ranks,
        recomputes=recomputes,
    ).run()
    if ranks.is_first:
        run.begin_stage(STAGE)
        _save(run, loaded, placement)
    return {**summary, **memory.to_json(), "trainable_parameters": n_weights}


def _will_recompute(
    recipe: Recipe, model: Any, layout: Layout, train: Sequence[EncodedPair], placement: Placement
) -> bool:
    """Whether activations are computed again: asked for, or they would not fit."""
    own = estimator(
        model,
        layout,
        train,
        dtype=placement.dtype,
        captured=False,
        ours=False,
        shared=process_count(recipe.train.processes),
    )
    # The weights, counted with their gradients and moments, are loaded by now.
    free = available_bytes(placement.device) + 4 * own.trained
    return will_recompute(recipe, own, free)


def _products(placement: Placement) -> str:
    return "" if placement.dtype == torch.float32 else f", {placement.dtype_name} products"


def _compute_in(model: Any, placement: Placement) -> None:
    """Let the forward pass compute in the placement's precision; weights stay as they are."""
    if placement.dtype != torch.float32:
        autocast: Any = torch.autocast
        model.forward = autocast(placement.device.type, dtype=placement.dtype)(model.forward)


def _refuse_too_large(n_weights: int, device: torch.device) -> None:
    # The weights themselves are loaded by now.
    needed, free = n_weights * (_TRAINING_BYTES - 4), available_bytes(device)
    if needed > free:
        raise OutOfMemory(
            "full fine-tuning does not fit in memory",
            received=f"{n_weights:,} weights: {needed / 2**30:.1f} GiB more for gradients and"
            f" AdamW's moments, {free / 2**30:.1f} GiB free on {device.type}",
            accepted="a model whose weights, gradients and moments fit (16 bytes per weight)",
            next_step="leave full_finetune out of evaluate.systems, or use a smaller model",
        )


def _has_room(context: Context, n_weights: int, ranks: Ranks) -> bool:
    free = shutil.disk_usage(context.run.path).free
    if free >= n_weights * _DISK_BYTES:
        return True
    if not ranks.is_first:
        return False
    notice = (
        "full fine-tuning kept no checkpoints, for want of disk space"
        f" ({n_weights * _DISK_BYTES / 2**30:.1f} GiB wanted, {free / 2**30:.1f} GiB free)"
    )
    context.reporter.say(f"  {notice}; if it is stopped it starts again")
    add_notices(context.run, [notice])
    return False


def _clear_others(folder: Path, inputs: str) -> None:
    """Throw away states of other data or settings: this baseline can be redone."""
    for item in checkpoints(folder):
        try:
            known = json.loads((item / "state.json").read_text(encoding="utf-8"))
            same = known.get("inputs_sha256") == inputs
        except (OSError, ValueError, AttributeError):
            same = False
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
            break
    if not checkpoints(folder):
        # The best weights of a start that left no checkpoint belong to nothing.
        shutil.rmtree(folder, ignore_errors=True)


def _save(run: RunDirectory, loaded: LoadedModel, placement: Placement) -> None:
    """Keep the weights in the precision in which they will answer, with tokenizer and log."""
    model = loaded.model.to(placement.dtype)
    with atomic_folder(run.full_finetune) as temporary:
        model.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        shutil.copyfile(checkpoint_folder(run) / _LOG, temporary / _LOG)


def full_finetune_section(run: RunDirectory, recipe: Recipe) -> Any:
    """The model section that names the trained weights."""
    return recipe.model.model_copy(
        update={"name_or_path": str(run.full_finetune), "revision": None, "init": "pretrained"}
    )
