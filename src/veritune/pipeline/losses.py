"""Losses of base and adapted model: on the questions asked, and on text away from them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from veritune.atomic import write_json
from veritune.pipeline.answers import Base, Models
from veritune.pipeline.away_texts import Passage, away_passages
from veritune.pipeline.context import Context
from veritune.rows import AwayLoss, Example, Loss, read_examples
from veritune.run_dir import digest
from veritune.train.batches import EncodedPair, Layout, make_layout
from veritune.train.loss import example_losses

_BATCH = 4
_SEQ2SEQ_NOTE = "an encoder-decoder reads the first half of a chunk and is asked for the second"


def measure_losses(
    context: Context, asked: Sequence[Example]
) -> tuple[list[Loss], list[AwayLoss], str]:
    """Losses on train and test questions, and on text away from them; kept in ``losses.json``.

    Returns:
        Losses of the questions, of the chunks, and a note on what the chunks are.
    """
    run, recipe = context.run, context.recipe
    examples = [row for row in asked if row.split in ("train", "test")]
    identity = digest(
        run.adapter,
        recipe.model.model_dump(),
        recipe.evaluate.forgetting.model_dump(),
        recipe.data.input,
        recipe.seed,
        [[row.example_id, row.instruction, row.input, row.reference] for row in examples],
    )
    if run.losses.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            content = json.loads(run.losses.read_text(encoding="utf-8"))
            if content["inputs_sha256"] == identity:
                context.reporter.say("  losses: unchanged, kept")
                return _from_json(content)
    passages, note = away_passages(
        recipe.evaluate.forgetting, read_examples(run.split_file("train")), recipe.seed
    )
    base = Models(context, []).base
    if base.encoder.kind == "seq2seq" and passages:
        note = f"{note}; {_SEQ2SEQ_NOTE}"
    pairs = base.encoder.pairs(examples)
    chunks = _chunks(passages, base, recipe.evaluate.forgetting.chunk_tokens)
    layout = _layout(base)
    found: dict[str, list[tuple[float, int]]] = {}
    work = [*pairs, *(pair for _, pair, _ in chunks)]
    with context.reporter.task("losses of base and adapted", 2 * len(work)) as task:
        for system in ("baseline", "adapted"):
            off = (
                base.adapted.disable_adapter() if system == "baseline" else contextlib.nullcontext()
            )
            base.adapted.eval()
            with off:
                found[system] = _losses(base.adapted, layout, work, task.advance)
    losses = [
        Loss(pair.example_id, system, total / count, count)
        for system, values in found.items()
        for pair, (total, count) in zip(pairs, values, strict=False)
    ]
    away = [
        AwayLoss(passage.kind, passage.document, before, after, count, size)
        for (passage, _, size), (before, count), (after, _) in zip(
            chunks,
            found["baseline"][len(pairs) :],
            found["adapted"][len(pairs) :],
            strict=True,
        )
    ]
    write_json(
        run.losses,
        {
            "inputs_sha256": identity,
            "note": note,
            "examples": [asdict(row) for row in losses],
            "away": [asdict(row) for row in away],
        },
    )
    return losses, away, note


def _from_json(content: dict[str, Any]) -> tuple[list[Loss], list[AwayLoss], str]:
    return (
        [Loss(**row) for row in content["examples"]],
        [AwayLoss(**row) for row in content["away"]],
        str(content["note"]),
    )


def _losses(
    model: Any, layout: Layout, pairs: Sequence[EncodedPair], advance: Any
) -> list[tuple[float, int]]:
    device = next(model.parameters()).device
    # Rows of like length stand together; results come back in the order of ``pairs``.
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].n_tokens)
    results: dict[int, tuple[float, int]] = {}
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        batch = layout.batch([pairs[place] for place in places]).to(device)
        with torch.inference_mode():
            results.update(zip(places, example_losses(model, batch), strict=True))
        advance(len(places))
    return [results[place] for place in range(len(pairs))]


def _layout(base: Base) -> Layout:
    config, tokenizer = base.adapted.config, base.encoder.format.tokenizer
    start = getattr(config, "decoder_start_token_id", None)
    return make_layout(
        base.encoder.kind,
        "longest_in_batch",
        [],
        pad_id=int(tokenizer.pad_token_id),
        decoder_start_id=int(start if start is not None else tokenizer.pad_token_id),
    )


def _chunks(
    passages: Sequence[Passage], base: Base, n_tokens: int
) -> list[tuple[Passage, EncodedPair, int]]:
    """Chunks as pairs whose target is what the loss counts, with the target's bytes."""
    tokenizer = base.encoder.format.tokenizer
    chunks = []
    for passage in passages:
        ids = tokenizer(passage.text, add_special_tokens=False)["input_ids"][:n_tokens]
        border = len(ids) // 2 if base.encoder.kind == "seq2seq" else 1
        source, target = tuple(ids[:border]), tuple(ids[border:])
        if not source or not target:
            continue
        size = len(tokenizer.decode(list(target)).encode("utf-8"))
        chunks.append((passage, EncodedPair(passage.document, source, target), size))
    return chunks
