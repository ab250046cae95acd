"""Attention over packed rows of fixed length, where every token names its example.

Which tokens see each other is decided on the device, from the numbers of their examples, so a
recorded step serves every batch of its shape.  On CUDA by ``flex_attention``, which skips the
blocks between examples; elsewhere, and where attention weights drop out, by dense products.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from veritune.model.device_dropout import Signals, keep_mask, keeping

NAME = "veritune_fixed"
_BLOCK = 128
Mask = Any  # a boolean tensor [K, 1, n, m], or flex_attention's BlockMask


def row_masks(source: torch.Tensor, target: torch.Tensor | None, *, flex: bool) -> dict[str, Mask]:
    """Keyword arguments of the model from the numbers of the examples.

    Args:
        source: ``[K, S]``, ascending in every row; of a decoder model, or of an encoder.
        target: ``[K, T]`` of a decoder beside it, or None.
        flex: for ``flex_attention``.
    """
    make = _block_mask if flex else _dense_mask
    if target is None:
        return {"self_mask": make(source, source, True)}
    return {
        "encoder_mask": make(source, source, False),
        "self_mask": make(target, target, True),
        "cross_mask": make(target, source, False),
    }


def _dense_mask(queries: torch.Tensor, keys: torch.Tensor, causal: bool) -> torch.Tensor:
    same = queries.unsqueeze(2) == keys.unsqueeze(1)
    return (same.tril() if causal else same).unsqueeze(1)


def _block_mask(queries: torch.Tensor, keys: torch.Tensor, causal: bool) -> Any:
    """A BlockMask without its own search for blocks, which would read numbers back."""
    from torch.nn.attention.flex_attention import BlockMask

    def sees(b: Any, h: Any, q: Any, k: Any) -> Any:
        del h
        same = queries[b, q] == keys[b, k]
        return same & (q >= k) if causal else same

    # Examples ascend along a row, so two blocks share one exactly if their ranges meet.
    q_low, q_high = _range(queries)
    k_low, k_high = _range(keys)
    meet = (q_low.unsqueeze(2) <= k_high.unsqueeze(1)) & (k_low.unsqueeze(1) <= q_high.unsqueeze(2))
    if causal:
        meet = meet.tril()
    meet = meet.unsqueeze(1).to(torch.int32)
    order = torch.argsort(meet, dim=-1, descending=True, stable=True).to(torch.int32)
    return BlockMask.from_kv_blocks(
        meet.sum(-1).to(torch.int32),
        order,
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(queries.shape[1], keys.shape[1]),
    )


def _range(examples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = examples.view(examples.shape[0], -1, _BLOCK)
    return blocks.amin(-1), blocks.amax(-1)


def fits_blocks(*lengths: int) -> bool:
    """Whether rows of these lengths divide into blocks."""
    return all(length % _BLOCK == 0 for length in lengths)


@dataclass
class AttentionDropout:
    """Dropout of one attention's weights; put on its module as ``veritune_dropout``."""

    signals: Signals
    site: torch.Tensor


def fixed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    self_mask: Mask = None,
    encoder_mask: Mask = None,
    cross_mask: Mask = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: queries ``[K, heads, n, d]``, keys ``[K, kv_heads, m, d]``.

    Args:
        position_bias: ``[1, heads, 2 n - 1]``, T5's by distance (key - query + n - 1), or None.

    Returns:
        ``[K, n, heads, d]`` and no weights.
    """
    del attention_mask
    mask = self_mask
    if encoder_mask is not None:
        is_cross = module.is_decoder and not module.is_causal
        mask = cross_mask if is_cross else self_mask if module.is_decoder else encoder_mask
        position_bias = None if is_cross else position_bias
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    drops: AttentionDropout | None = getattr(module, "veritune_dropout", None)
    if dropout > 0 and drops is not None and module.training:
        if not isinstance(mask, torch.Tensor):
            raise TypeError("attention weights drop out of dense products only")
        bias = None if position_bias is None else _bias_of(position_bias, query.shape[2])
        keys = drops.signals.keys(drops.site)
        mixed: torch.Tensor = _Dense.apply(  # type: ignore[no-untyped-call]
            query, key, value, mask, bias, scale, keys, dropout
        )
        return mixed.transpose(1, 2), None
    groups = query.shape[1] != key.shape[1]
    if isinstance(mask, torch.Tensor):
        allowed: torch.Tensor = mask
        if position_bias is not None:
            bias = _bias_of(position_bias, query.shape[2])
            allowed = torch.where(mask, bias, float("-inf")).to(query.dtype)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, scale=scale, enable_gqa=groups
        )
    else:
        mixed = _flex()(
            query,
            key,
            value,
            score_mod=None if position_bias is None else _by_distance(position_bias),
            block_mask=mask,
            scale=scale,
            enable_gqa=groups,
        )
    return mixed.transpose(1, 2), None


def _bias_of(table: torch.Tensor, n: int) -> torch.Tensor:
    """``[1, heads, n, n]`` from the biases by distance."""
    places = torch.arange(n, device=table.device)
    distance = places[None, :] - places[:, None] + n - 1
    return table[:, :, distance]


def _by_distance(table: torch.Tensor) -> Any:
    middle = (table.shape[-1] - 1) // 2

    def biased(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        del b
        return score + table[0, h, k - q + middle]

    return biased


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # Inside a compiled layer it is compiled with the layer; elsewhere it must be by itself.
    if torch.compiler.is_compiling() or not torch.cuda.is_available():
        return flex_attention
    return _compiled_flex()


def bias_by_distance(module: Any, query_length: int, key_length: int, **_: Any) -> torch.Tensor:
    """Stands for T5's ``compute_bias``: ``[1, heads, 2 n - 1]``, a value for every distance."""
    n = max(query_length, key_length)
    weight = module.relative_attention_bias.weight
    distances = torch.arange(1 - n, n, device=weight.device)
    buckets = module._relative_position_bucket(
        distances,
        bidirectional=not module.is_decoder,
        num_buckets=module.relative_attention_num_buckets,
        max_distance=module.relative_attention_max_distance,
    )
    values: torch.Tensor = module.relative_attention_bias(buckets)
    return values.t().unsqueeze(0).detach()


def register() -> None:
    """Let transformers find it by its name; rows then carry ready masks."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, fixed_attention)


def drops_attention(base: nn.Module) -> bool:
    """Whether a model drops attention weights in training."""
    return any(
        isinstance(
            p := getattr(module, "dropout", getattr(module, "attention_dropout", 0.0)), float
        )
        and p > 0
        for module in base.modules()
        if type(module).__name__.endswith("Attention")
    )


class _Dense(torch.autograd.Function):
    """Masked attention whose weights drop out; they are computed again for the gradient."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        keys: torch.Tensor,
        p: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, mask, bias, keys)
        ctx.scale, ctx.p = scale, p
        weights = _weights(query, key, mask, bias, scale)
        return (weights * _kept(weights, keys, p)).to(value.dtype) @ _repeat(value, query)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, mask, bias, keys = ctx.saved_tensors
        weights = _weights(query, key, mask, bias, ctx.scale)
        kept = _kept(weights, keys, ctx.p)
        dv = (weights * kept).to(value.dtype).transpose(2, 3) @ outer[0]
        dp = (outer[0] @ _repeat(value, query).transpose(2, 3)).to(weights.dtype) * kept
        ds = torch._softmax_backward_data(dp, weights, -1, weights.dtype)
        ds = (ds * ctx.scale).to(query.dtype)
        dq = ds @ _repeat(key, query)
        dk = ds.transpose(2, 3) @ query
        return dq, _sum_groups(dk, key), _sum_groups(dv, value), None, None, None, None, None


def _weights(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    scores = query @ _repeat(key, query).transpose(2, 3) * scale
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1)


def _kept(weights: torch.Tensor, keys: torch.Tensor, p: float) -> torch.Tensor:
    """``[K, heads, n, m]``, 0 or one over the probability to keep.

    The place of a weight is (head and query, key) with room for 2**16 queries.
    """
    k, heads, n, m = weights.shape
    chance = torch.full((k * heads,), p, device=weights.device)
    head = torch.arange(heads, dtype=torch.int32, device=weights.device) << 16
    of_head = torch.stack([keys[:, :1] + head, keys[:, 1:] ^ (head + 1)], -1).view(k * heads, 2)
    kept = keep_mask(of_head, n, m, chance) / keeping(chance)[:, None, None]
    return kept.view(k, heads, n, m).to(weights.dtype)


def _repeat(key: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    return key if groups == 1 else key.repeat_interleave(groups, 1)


def _sum_groups(gradient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if gradient.shape == like.shape:
        return gradient
    k, heads, m, d = gradient.shape
    return gradient.view(k, like.shape[1], heads // like.shape[1], m, d).sum(2)
