"""Decoding in length-sorted batches, through transformers' ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from veritune.errors import OutOfMemory
from veritune.model.lora import peft_notices
from veritune.model.prompt import PromptFormat


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer as generated.

    Attributes:
        raw: text without special tokens.
        n_new_tokens: generated tokens, the end token included.
        finish_reason: ``stop`` if an end token came, ``length`` if the limit did.
    """

    raw: str
    n_new_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How several answers to one prompt are drawn.

    Attributes:
        n: answers a prompt.
        seed: of the draws; the same prompts, batch size and seed give the same answers.
    """

    n: int
    temperature: float
    top_p: float
    seed: int


@torch.inference_mode()
def decode(
    model: Any,
    prompt_format: PromptFormat,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_done: Callable[[int, int], None] | None = None,
    sampling: Sampling | None = None,
) -> list[Generated]:
    """Answer every prompt greedily; results come in the order of ``prompts``.

    Args:
        sampling: draws ``n`` answers a prompt instead; those of one prompt stand together.
        on_done: called with (answers, new tokens) after each batch.

    Raises:
        OutOfMemory: a batch did not fit even alone.
    """
    copies = 1 if sampling is None else sampling.n
    encoded = [row for row in prompt_format.encode_prompts(list(prompts)) for _ in range(copies)]
    if sampling is not None:
        torch.manual_seed(sampling.seed)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)
    results: dict[int, Generated] = {}
    start = 0
    while start < len(order):
        chosen = order[start : start + batch_size]
        try:
            rows = [encoded[index] for index in chosen]
            answers = _batch(model, prompt_format, rows, max_new_tokens, sampling)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if batch_size == 1:
                raise OutOfMemory(
                    "memory ran out while generating one answer",
                    received=f"{len(encoded[chosen[0]])} prompt tokens,"
                    f" {max_new_tokens} new tokens",
                    next_step="lower evaluate.max_new_tokens or data.max_pair_tokens",
                ) from error
            batch_size = max(1, batch_size // 2)
            continue
        results.update(zip(chosen, answers, strict=True))
        start += len(chosen)
        if on_done is not None:
            on_done(len(chosen), sum(answer.n_new_tokens for answer in answers))
    return [results[index] for index in range(len(encoded))]


def _batch(
    model: Any,
    prompt_format: PromptFormat,
    rows: list[list[int]],
    max_new_tokens: int,
    sampling: Sampling | None,
) -> list[Generated]:
    tokenizer = prompt_format.tokenizer
    device = next(model.parameters()).device
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id), dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        # Decoders continue at the right end, so they are padded on the left.
        place = (
            slice(0, len(row))
            if prompt_format.kind == "seq2seq"
            else slice(longest - len(row), longest)
        )
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    ends = sorted({prompt_format.end_id, int(tokenizer.eos_token_id)})
    with peft_notices():
        output = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            num_beams=1,
            **_choice(sampling),
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=int(tokenizer.pad_token_id),
        )
    # Encoder-decoder output opens with the start token, decoder output with the prompt.
    skip = 1 if prompt_format.kind == "seq2seq" else longest
    return [_finish(row, ends, tokenizer) for row in output[:, skip:].tolist()]


def _choice(sampling: Sampling | None) -> dict[str, Any]:
    if sampling is None:
        return {"do_sample": False}
    # A model's own generation settings may limit the candidates; here they do not.
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
    }


def _finish(row: list[int], ends: list[int], tokenizer: Any) -> Generated:
    stop = next((index for index, token in enumerate(row) if token in ends), None)
    text = tokenizer.decode(
        row if stop is None else row[:stop],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    if stop is None:
        return Generated(text, len(row), "length")
    return Generated(text, stop + 1, "stop")
