"""Answers by transformers' ``generate``: any model, one padded batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from veritune.generate.generated import Generated, Sampling, end_ids, finished
from veritune.model.lora import peft_notices
from veritune.model.prompt import PromptFormat


def answer_batch(
    model: Any,
    prompt_format: PromptFormat,
    rows: Sequence[list[int]],
    max_new_tokens: int,
    sampling: Sampling | None,
) -> list[Generated]:
    """Answer encoded prompts together; sampled answers draw from torch's generator."""
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
    ends = end_ids(prompt_format)
    with peft_notices():
        output = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            num_beams=1,
            **_choice(sampling),
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(ends),
            pad_token_id=int(tokenizer.pad_token_id),
        )
    # Encoder-decoder output opens with the start token, decoder output with the prompt.
    skip = 1 if prompt_format.kind == "seq2seq" else longest
    return [finished(row, ends, tokenizer) for row in output[:, skip:].tolist()]


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
