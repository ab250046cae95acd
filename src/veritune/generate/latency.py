"""How long one new token takes, alone: the same prompts for several models, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from veritune.model.lora import peft_notices
from veritune.model.prompt import PromptFormat

_WARM_UP_TOKENS = 2  # one step on the prompt, one on a single token


@torch.inference_mode()
def latency_rounds(
    models: Mapping[str, Any],
    prompt_format: PromptFormat,
    prompts: Sequence[str],
    *,
    rounds: int,
    new_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, float]]:
    """Seconds per new token of each model, one entry a round.

    In each round every model answers the same prompt, batch 1, greedily, with exactly
    ``new_tokens`` tokens; who goes first changes from round to round, so that a machine
    that slows down favours none.  A short round before the first is not counted.  The time
    of reading the prompt is part of it.

    Args:
        prompts: used in turn.
        clock: in seconds; ``time.process_time`` does not count other processes' turns, and is
            fair where torch has one thread.
    """
    encoded = prompt_format.encode_prompts(list(prompts))
    names = list(models)
    measured: list[dict[str, float]] = []
    for index in range(-1, rounds):
        row = encoded[max(index, 0) % len(encoded)]
        first = max(index, 0) % len(names)
        found: dict[str, float] = {}
        for name in names[first:] + names[:first]:
            n_tokens = new_tokens if index >= 0 else min(_WARM_UP_TOKENS, new_tokens)
            seconds = _seconds(models[name], prompt_format, row, n_tokens, clock)
            found[name] = seconds / n_tokens
        if index >= 0:
            measured.append({name: found[name] for name in names})
    return measured


def _seconds(
    model: Any,
    prompt_format: PromptFormat,
    row: list[int],
    new_tokens: int,
    clock: Callable[[], float],
) -> float:
    device = next(model.parameters()).device
    ids = torch.tensor([row], device=device)
    _wait(device)
    started = clock()
    with peft_notices():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=int(prompt_format.tokenizer.pad_token_id),
        )
    _wait(device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
