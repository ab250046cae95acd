"""Stage 2: an adapter in PEFT's format, the log, the checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from veritune.config import Recipe
from veritune.errors import RecipeError, RunDirectoryError
from veritune.model.adapter import CONFIG, WEIGHTS, save_adapter
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import choose_placement, describe_hardware
from veritune.model.load import Kind, LoadedModel, load_model
from veritune.model.lora import REBASING_INITS, attach_lora, coverage
from veritune.model.memory import StepMemory
from veritune.pipeline.context import Context, add_notices
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.pipeline.trackers import open_trackers
from veritune.rows import read_examples
from veritune.run_dir import RunDirectory, digest
from veritune.train.batches import EncodedPair, Layout, audit_supervision, make_layout
from veritune.train.flops import count_weights
from veritune.train.loop import Training


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
        recipe.train.model_dump(exclude={"full_learning_rate"}),
        recipe.data.input,
        recipe.training_seed,
        # `seed` still builds a base of random weights.
        *([recipe.seed] if recipe.seed != recipe.training_seed else []),
    )


def layout_for(recipe: Recipe, encoder: Encoder, pairs: list[EncodedPair], config: Any) -> Layout:
    """The batch layout that the recipe asks for.

    Raises:
        RecipeError: packed rows for an encoder-decoder model.
    """
    refuse_packed(recipe, encoder.kind)
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


def refuse_packed(recipe: Recipe, kind: Kind) -> None:
    """Refuse packed rows for an encoder-decoder model.

    Raises:
        RecipeError: that is what the recipe asks for.
    """
    if recipe.train.padding == "packed" and kind == "seq2seq":
        raise RecipeError(
            "train.padding: packed is for decoder models; this is an encoder-decoder",
            received=recipe.model.name,
            accepted="longest_in_batch, longest_in_data or max_length",
            next_step="--set train.padding=longest_in_batch",
        )


def _train(context: Context, inputs: str) -> None:
    run, recipe, reporter = context.run, context.recipe, context.reporter
    started = time.perf_counter()
    encoder = make_encoder(recipe)
    train = encoder.pairs(read_examples(run.split_file("train")))
    validation = encoder.pairs(read_examples(run.split_file("validation")))
    audit_supervision(train, encoder.format.end_id)
    audit_supervision(validation, encoder.format.end_id)
    placement = choose_placement(recipe.model)
    reporter.say(
        f"train: {recipe.model.name} on {len(train)} pairs,"
        f" {placement.dtype_name} on {placement.device.type}"
    )
    memory = StepMemory(placement.device)
    loaded = load_model(recipe.model, placement, seed=recipe.seed)
    model = attach_lora(loaded.model, recipe.lora, seed=recipe.training_seed)
    add_notices(run, [loaded.reference.notice])
    _record_model(run, loaded, model, describe_hardware(placement))
    initial = _keep_initial(run, model, recipe)
    layout = layout_for(recipe, encoder, [*train, *validation], loaded.model.config)
    if recipe.train.padding == "packed":
        use_packed_attention(model, max(pair.n_tokens for pair in [*train, *validation]))
    with open_trackers(recipe, run.path / "trackers") as track:
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
        )
        summary = {**training.run(), **memory.to_json()}
    save_adapter(
        model,
        run.adapter,
        base_name=loaded.reference.location or recipe.model.name,
        initial=initial,
    )
    run.finish_stage("train", inputs, time.perf_counter() - started, summary=summary)


def _needs_data(run: RunDirectory) -> None:
    if not run.split_file("train").is_file():
        raise RunDirectoryError(
            "the run has no prepared data",
            received=run.path,
            accepted="a run directory after `veritune prepare`",
            next_step=f"veritune prepare {run.path}",
        )


def _record_model(
    run: RunDirectory, loaded: LoadedModel, model: Any, hardware: dict[str, object]
) -> None:
    run.update_manifest(
        hardware=hardware,
        model={
            "name": loaded.reference.name,
            "description": loaded.description,
            "revision": loaded.revision,
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
