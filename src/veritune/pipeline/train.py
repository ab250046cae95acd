"""Stage 2: an adapter in PEFT's format, the log, the checkpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from veritune.config import Recipe
from veritune.errors import RecipeError, RunDirectoryError
from veritune.model.adapter import CONFIG, OURS, WEIGHTS, save_adapter
from veritune.model.allocator import give_back_early
from veritune.model.attention import supports_packed_t5, use_packed_attention
from veritune.model.fingerprint import base_fingerprint
from veritune.model.hardware import (
    Placement,
    available_bytes,
    choose_placement,
    describe_hardware,
)
from veritune.model.load import Kind, LoadedModel, load_model
from veritune.model.lora import REBASING_INITS, attach_lora, coverage
from veritune.model.memory import StepMemory
from veritune.model.quantized import FROZEN_BYTES
from veritune.pipeline.context import Context, add_notices
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.pipeline.hub_commits import refuse_moved_model
from veritune.pipeline.processes import placed, together
from veritune.pipeline.trackers import open_trackers
from veritune.rows import read_examples
from veritune.run_dir import RunDirectory, digest
from veritune.train.batches import EncodedPair, Layout, audit_supervision, make_layout
from veritune.train.engine import why_not_captured
from veritune.train.flops import count_weights
from veritune.train.loop import Training
from veritune.train.memory import Estimator, estimator
from veritune.train.ranks import Ranks, process_count

_NO_MATTER = frozenset({"full_learning_rate", "compile", "activation_checkpointing"})
"""Settings of the training section that do not decide the adapter."""


def train_stage(context: Context) -> dict[str, Any]:
    """Write ``adapter/`` unless it is up to date; return the training summary."""
    run, recipe = context.run, context.recipe
    _needs_data(run)
    inputs = train_inputs(run, recipe)
    outputs = [run.adapter / WEIGHTS, run.adapter / CONFIG, run.train_log]
    if not context.skip("train", inputs, outputs):
        _train(context, inputs)
    return dict(run.stage_record("train").get("summary", {}))


def train_inputs(run: RunDirectory, recipe: Recipe) -> str:
    """Hash of everything that decides the adapter."""
    return digest(
        run.split_file("train"),
        run.split_file("validation"),
        recipe.model.model_dump(),
        recipe.lora.model_dump(),
        recipe.train.model_dump(exclude=set(_NO_MATTER)),
        recipe.data.input,
        recipe.training_seed,
        # `seed` still builds a base of random weights.
        *([recipe.seed] if recipe.seed != recipe.training_seed else []),
    )


def layout_for(recipe: Recipe, encoder: Encoder, pairs: list[EncodedPair], config: Any) -> Layout:
    """The batch layout that the recipe asks for.

    Raises:
        RecipeError: packed rows for an encoder-decoder model that cannot have them.
    """
    refuse_packed(recipe, encoder.kind, str(getattr(config, "model_type", "")))
    data = recipe.data
    start = getattr(config, "decoder_start_token_id", None)
    return make_layout(
        encoder.kind,
        recipe.train.padding,
        pairs,
        pad_id=int(encoder.format.tokenizer.pad_token_id),
        decoder_start_id=int(start if start is not None else encoder.format.tokenizer.pad_token_id),
        limits=(
            data.max_source_tokens if encoder.kind == "seq2seq" else data.max_pair_tokens,
            data.max_target_tokens,
        ),
    )


def refuse_packed(recipe: Recipe, kind: Kind, model_type: str) -> None:
    """Refuse packed rows for an encoder-decoder model other than T5.

    Raises:
        RecipeError: that is what the recipe asks for.
    """
    known = model_type == "t5" and supports_packed_t5()
    if recipe.train.padding == "packed" and kind == "seq2seq" and not known:
        raise RecipeError(
            "train.padding: packed is for decoder models and T5; this is another"
            " encoder-decoder, or transformers is too old to pack T5",
            received=f"{recipe.model.name} ({model_type})",
            accepted="longest_in_batch, longest_in_data or max_length",
            next_step="--set train.padding=longest_in_batch",
        )


def memory_estimator(
    recipe: Recipe, model: Any, layout: Layout, pairs: Sequence[EncodedPair], placement: Placement
) -> Estimator:
    """What foretells the memory of this recipe's steps."""
    return estimator(
        model,
        layout,
        pairs,
        dtype=placement.dtype,
        captured=engine_note(model, layout, pairs, recipe, placement) == "captured",
        ours=placement.device.type == "cpu" or recipe.train.engine != "eager",
        frozen_bytes=FROZEN_BYTES[recipe.model.quantization],
        mapped=_stays_mapped(recipe, model, placement),
        shared=process_count(recipe.train.processes),
    )


def _stays_mapped(recipe: Recipe, model: Any, placement: Placement) -> bool:
    stored = getattr(model.get_base_model().config, "dtype", None)
    on_cpu = placement.device.type == "cpu"
    return on_cpu and recipe.model.init == "pretrained" and stored == placement.dtype


def engine_note(
    model: Any, layout: Layout, pairs: Sequence[EncodedPair], recipe: Recipe, placement: Placement
) -> str:
    """``captured``, or ``eager`` with the reason why steps are not recorded."""
    del layout
    longest = max(pair.n_tokens for pair in pairs)
    reason = why_not_captured(model, {0: OURS}, longest, placement.device)
    if reason is None and recipe.train.engine != "eager":
        return "captured"
    return "eager" + (f": {reason}" if reason else "")


def will_recompute(recipe: Recipe, estimate: Estimator, free: int) -> bool:
    """Whether activations are computed again: asked for, or they would not fit."""
    wanted = recipe.train.activation_checkpointing
    need = estimate.need(recipe.train.batch_size, recomputes=False)
    return wanted == "on" or (wanted == "auto" and need.total > free)


def _train(context: Context, inputs: str) -> None:
    run, recipe = context.run, context.recipe
    started = time.perf_counter()
    placement = choose_placement(recipe.model)
    with together(recipe, run, inputs, placement) as ranks:
        summary = train_share(context, inputs, ranks, placed(placement, ranks))
    run.finish_stage("train", inputs, time.perf_counter() - started, summary=summary)


def train_share(
    context: Context, inputs: str, ranks: Ranks, placement: Placement
) -> dict[str, Any]:
    """Train this process's share; the first process also writes the adapter."""
    run, recipe, reporter = context.run, context.recipe, context.reporter
    encoder = make_encoder(recipe)
    train = encoder.pairs(read_examples(run.split_file("train")))
    validation = encoder.pairs(read_examples(run.split_file("validation")))
    audit_supervision(train, encoder.format.end_id)
    audit_supervision(validation, encoder.format.end_id)
    reporter.say(
        f"train: {recipe.model.name} on {len(train)} pairs,"
        f" {placement.dtype_name} on {placement.device.type}"
        + (f", {ranks.size} processes" if ranks.size > 1 else "")
    )
    memory = StepMemory(placement.device)
    loaded = load_model(recipe.model, placement, seed=recipe.seed)
    refuse_moved_model(run, loaded)
    # Before an initialisation can move any of the base's weights.
    fingerprint = base_fingerprint(loaded.model)
    model = attach_lora(loaded.model, recipe.lora, seed=recipe.training_seed)
    initial = None
    if ranks.is_first:
        add_notices(run, [loaded.reference.notice])
        _record_model(run, loaded, model, describe_hardware(placement), fingerprint)
        initial = _keep_initial(run, model, recipe)
    layout = layout_for(recipe, encoder, [*train, *validation], loaded.model.config)
    if recipe.train.padding == "packed":
        longest = max(pair.n_tokens for pair in [*train, *validation])
        cuts = use_packed_attention(model, longest) and placement.device.type == "cpu"
        layout = replace(layout, shares_prefix=cuts)
    estimate = memory_estimator(recipe, model, layout, train, placement)
    # The weights are loaded by now.
    free = available_bytes(placement.device) + int(estimate.frozen * estimate.frozen_bytes)
    recomputes = will_recompute(recipe, estimate, free)
    need = estimate.need(recipe.train.batch_size, recomputes=recomputes)
    if need.gives_back(free, placement.device):
        give_back_early()
    if recomputes and recipe.train.activation_checkpointing == "auto":
        reporter.say("  activations would not fit: they are computed again (a third slower)")
    trackers = open_trackers(recipe, run.path / "trackers") if ranks.is_first else nullcontext()
    with trackers as track:
        training = Training(
            model=model,
            layout=layout,
            section=recipe.train,
            train=train,
            validation=validation,
            seed=recipe.training_seed,
            device=placement.device,
            folder=run.checkpoints,
            log_path=run.train_log,
            inputs_sha256=inputs,
            weights=count_weights(model),
            reporter=reporter,
            track=track,
            watch=memory.watch,
            ranks=ranks,
            recomputes=recomputes,
            fits=lambda: estimate.fitting(
                recipe.train.batch_size,
                recipe.train.accumulation_steps,
                free,
                recomputes=recomputes,
            ),
        )
        summary = {**training.run(), **memory.to_json()}
    if ranks.is_first:
        save_adapter(
            model,
            run.adapter,
            base_name=loaded.reference.location or recipe.model.name,
            initial=initial,
        )
    return summary


def _needs_data(run: RunDirectory) -> None:
    if not run.split_file("train").is_file():
        raise RunDirectoryError(
            "the run has no prepared data",
            received=run.path,
            accepted="a run directory after `veritune prepare`",
            next_step=f"veritune prepare {run.path}",
        )


def _record_model(
    run: RunDirectory,
    loaded: LoadedModel,
    model: Any,
    hardware: dict[str, object],
    fingerprint: str,
) -> None:
    run.update_manifest(
        hardware=hardware,
        model={
            "name": loaded.reference.name,
            "description": loaded.description,
            "revision": loaded.revision,
            "fingerprint": fingerprint,
            **coverage(model).to_json(),
        },
    )


def _keep_initial(run: RunDirectory, model: Any, recipe: Recipe) -> Path | None:
    if recipe.lora.init not in REBASING_INITS:
        return None
    folder = run.checkpoints / "initial_adapter"
    # Written anew every time: an earlier attempt may have had another rank.
    save_adapter(model, folder, base_name=recipe.model.name)
    return folder
