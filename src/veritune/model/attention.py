"""Attention for packed rows: each example attends within itself, and nothing else is computed.

Transformers isolates packed examples with a dense mask over the whole row, whose cost grows
with the square of the row.  Here the row is cut at the examples' borders instead.  T5's
position bias depends on distances alone, so a packed row needs only that of its longest
example.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F

from veritune.errors import EnvironmentFault
from veritune.model.segment_attention import SegmentAttention, Segments
from veritune.model.stacked_lora import Situation

NAME = "veritune_packed"
T5_NAME = "veritune_packed_t5"
# Architectures whose layers hand keyword arguments through to their attention, and whose
# attention is plain causal softmax.  Others keep transformers' dense mask.
_KNOWN = frozenset({"llama", "qwen2", "qwen3", "mistral", "starcoder2"})


def packs(model: Any, longest: int) -> bool:
    """Whether packed rows of this model are known to be exact and cheap."""
    config = model.config
    if config.model_type == "t5":
        return supports_packed_t5()
    window = getattr(config, "sliding_window", None)
    return config.model_type in _KNOWN and (window is None or window >= longest)


def use_packed_attention(model: Any, longest: int) -> bool:
    """Switch a causal model to segment-wise attention where that is known to be exact.

    Args:
        longest: tokens of the longest example; sliding windows shorter than it are kept dense.

    Returns:
        Whether the model was switched; its rows must then carry ``cu_seq_lens_q``.
    """
    from transformers import AttentionInterface

    if not packs(model, longest):
        return False
    if model.config.model_type == "t5":
        AttentionInterface.register(T5_NAME, packed_t5_attention)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.set_attn_implementation(T5_NAME)
        for module in base.modules():
            if getattr(module, "has_relative_attention_bias", False):
                module.compute_bias = functools.partial(_bias_of_longest, module, longest)
        return True
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
    segments: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment of one packed row.

    Args:
        query: ``[1, heads, S, d]``; ``key`` and ``value``: ``[1, kv_heads, S, d]``.
        cu_seq_lens_q: ``[segments + 1]``, cumulative lengths from 0 to S.
        segments: ``[segments, 4]``: start and end of each, start and end of the prefix it
            shares with others; CPU only.

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
    if query.device.type == "cpu" and dropout == 0 and not torch.is_autocast_enabled("cpu"):
        borders, prefixes = _borders(cu_seq_lens_q), None
        if segments is not None:
            rows = segments.tolist()
            borders, prefixes = [(r[0], r[1]) for r in rows], [(r[2], r[3]) for r in rows]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        cut = Segments(borders, borders, scale, causal=True, prefixes=prefixes)
        mixed = SegmentAttention.apply(query[0], key[0], value[0], None, cut)  # type: ignore[no-untyped-call]
        return mixed.unsqueeze(0), None
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


def supports_packed_t5() -> bool:
    """Whether this transformers hands T5's attention over, as releases since late 2026 do."""
    from transformers.models.t5 import modeling_t5

    return hasattr(modeling_t5, "ALL_ATTENTION_FUNCTIONS")


def packed_t5_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    source_borders: torch.Tensor | None = None,
    target_borders: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """T5's attention inside each segment of one packed row.

    Args:
        query, key, value: ``[1, heads, S or T, d]``.
        position_bias: ``[1, heads, n, n]`` of the longest segment; zeros for cross-attention.
        source_borders, target_borders: ``[segments + 1]``, cumulative lengths.

    Returns:
        ``[1, S, heads, d]`` and no weights.
    """
    if source_borders is None or attention_mask is not None or query.shape[0] != 1:
        raise EnvironmentFault(
            "packed attention was called on a row that is not packed",
            received=f"batch of {query.shape[0]}, segments {source_borders is not None}",
            accepted="one packed row with its segment borders and no mask",
            next_step="set train.padding to longest_in_batch for this model",
        )
    source = _borders(source_borders)
    target = source if target_borders is None else _borders(target_borders)
    is_cross = module.is_decoder and not module.is_causal
    queries = target if module.is_decoder else source
    keys = target if module.is_causal else source
    draws = None
    known: tuple[Situation, int] | None = getattr(module, "veritune_situation", None)
    if dropout > 0 and known is not None:
        situation, site = known
        draws = situation.segment_draws(site, queries, "target" if module.is_decoder else "source")
    segments = Segments(queries, keys, 1.0, bool(module.is_causal), dropout, draws)
    bias = None if is_cross or position_bias is None else position_bias[0].detach()
    mixed = SegmentAttention.apply(query[0], key[0], value[0], bias, segments)  # type: ignore[no-untyped-call]
    return mixed.unsqueeze(0), None


def _bias_of_longest(
    module: Any, longest: int, query_length: int, key_length: int, **options: Any
) -> torch.Tensor:
    n = min(longest, max(query_length, key_length))
    bias: torch.Tensor = type(module).compute_bias(module, n, n, **options)
    return bias.contiguous()


def _borders(cumulative: torch.Tensor) -> list[tuple[int, int]]:
    ends = cumulative.tolist()
    return list(itertools.pairwise(ends))
