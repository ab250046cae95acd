"""Attention for packed rows: each example attends within itself, and nothing else is computed.

Transformers isolates packed examples with a dense mask over the whole row, whose cost grows
with the square of the row.  Here the row is cut at the examples' borders instead.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from veritune.errors import EnvironmentFault

NAME = "veritune_packed"
# Architectures whose layers hand keyword arguments through to their attention, and whose
# attention is plain causal softmax.  Others keep transformers' dense mask.
_KNOWN = frozenset({"llama", "qwen2", "qwen3", "mistral", "starcoder2"})


def use_packed_attention(model: Any, longest: int) -> bool:
    """Switch a causal model to segment-wise attention where that is known to be exact.

    Args:
        longest: tokens of the longest example; sliding windows shorter than it are kept dense.

    Returns:
        Whether the model was switched; its rows must then carry ``cu_seq_lens_q``.
    """
    from transformers import AttentionInterface

    config = model.config
    window = getattr(config, "sliding_window", None)
    if config.model_type not in _KNOWN or (window is not None and window < longest):
        return False
    AttentionInterface.register(NAME, packed_attention)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation(NAME)
    return True


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment of one packed row.

    Args:
        query: ``[1, heads, S, d]``; ``key`` and ``value``: ``[1, kv_heads, S, d]``.
        cu_seq_lens_q: ``[segments + 1]``, cumulative lengths from 0 to S.

    Returns:
        ``[1, S, heads, d]`` and no weights.
    """
    if cu_seq_lens_q is None or attention_mask is not None or query.shape[0] != 1:
        raise EnvironmentFault(
            "packed attention was called on a row that is not packed",
            received=f"batch of {query.shape[0]}, segments {cu_seq_lens_q is not None}",
            accepted="one packed row with its segment borders and no mask",
            next_step="set train.padding to longest_in_batch for this model",
        )
    lengths = cu_seq_lens_q.diff().tolist()
    groups = query.shape[1] // key.shape[1]
    parts = []
    for q, k, v in zip(
        *(torch.split(tensor, lengths, 2) for tensor in (query, key, value)), strict=True
    ):
        parts.append(
            F.scaled_dot_product_attention(
                q,
                k.repeat_interleave(groups, 1),
                v.repeat_interleave(groups, 1),
                is_causal=True,
                scale=scaling,
                dropout_p=dropout,
            )
        )
    del module
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None
