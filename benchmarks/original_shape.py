"""The original run's model and data by their sizes, with random weights and tokens."""

from __future__ import annotations

from typing import Any

import torch

# Tokens of (question, answer) of the original's 40 training rows by CodeT5's tokenizer.
# fmt: off
ORIGINAL_LENGTHS = [
    (13, 68), (12, 90), (14, 75), (12, 72), (12, 108), (11, 91), (11, 95), (15, 103), (16, 90),
    (12, 102), (8, 84), (11, 108), (12, 165), (15, 100), (11, 95), (14, 92), (12, 88), (19, 87),
    (11, 72), (8, 76), (8, 74), (8, 109), (6, 68), (8, 74), (12, 109), (8, 77), (11, 99), (6, 66),
    (6, 21), (15, 61), (7, 42), (7, 87), (6, 23), (9, 44), (5, 46), (10, 106), (9, 44), (6, 22),
    (6, 40), (8, 64),
]
# fmt: on


def codet5_shape(dtype: torch.dtype) -> Any:
    """CodeT5-base with random weights, none of them trainable."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32100,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_layers=12,
        num_heads=12,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).to(dtype).requires_grad_(False)
    model.generation_config.decoder_start_token_id = 0
    return model


def random_ids(n: int, generator: torch.Generator) -> tuple[int, ...]:
    """So many token ids."""
    return tuple(torch.randint(5, 32000, (n,), generator=generator).tolist())
