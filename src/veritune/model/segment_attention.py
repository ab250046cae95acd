"""Softmax attention inside each segment of a packed row, with its gradient written out.

Segments are computed one by one, so nothing is spent across their borders, and grouped
query heads are stacked on their shared key instead of repeating it.  On a CPU this is several
times faster than the fused kernel's gradient, which is made for long rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from veritune.model.counted_dropout import Draw, keep_mask
from veritune.model.native.kernels import AttentionCall, attends, kernels


@dataclass(frozen=True)
class Segments:
    """Where the segments lie, and what happens inside them.

    Attributes:
        queries, keys: (start, end) of each segment in the query and in the key row.
        prefixes: (start, end) of the keys that a segment sees before its own, or None.
        scaling: factor of the scores.
        causal: whether later keys are hidden.
        dropout: of the attention weights; ``draws`` names each segment's mask.
    """

    queries: list[tuple[int, int]]
    keys: list[tuple[int, int]]
    scaling: float
    causal: bool
    dropout: float = 0.0
    draws: list[Draw] | None = None
    prefixes: list[tuple[int, int]] | None = None

    def table(self, heads: int) -> tuple[np.ndarray, int]:
        """One row a segment, as ``AttentionCall`` reads it, and how many weights there are."""
        rows, total = [], 0
        for number, ((start, end), (low, high)) in enumerate(
            zip(self.queries, self.keys, strict=True)
        ):
            first, last = self.before(number)
            draw = self.draws[number] if self.draws else Draw(0, 0, 0)
            shared = last - first
            place = (start, end - start, low, high - low, first, shared, total)
            rows.append((*place, draw.seed % 2**64, draw.site, draw.step))
            total += heads * (end - start) * (shared + high - low)
        return np.array(rows, dtype=np.uint64), total

    def before(self, number: int) -> tuple[int, int]:
        """The shared prefix of a segment; empty where there is none."""
        return (0, 0) if self.prefixes is None else self.prefixes[number]

    def of(self, number: int, row: torch.Tensor) -> torch.Tensor:
        """A segment's keys or values, ``[kv_heads, m, d]``, its prefix first."""
        low, high = self.keys[number]
        first, last = self.before(number)
        own = row[:, low:high]
        return own if first == last else torch.cat([row[:, first:last], own], 1)

    def give_back(self, number: int, row: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add the gradient of ``of`` to the row's."""
        low, high = self.keys[number]
        first, last = self.before(number)
        shared = last - first
        row[:, low:high] += gradient[:, shared:]
        if shared:
            row[:, first:last] += gradient[:, :shared]


class SegmentAttention(torch.autograd.Function):
    """``softmax(scaling · q kᵀ + bias) v`` by segment; scores and softmax in fp32 or wider."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        segments: Segments,
    ) -> torch.Tensor:
        """Attend.

        Args:
            ctx: autograd's.
            query: ``[heads, S, d]``; key and value: ``[kv_heads, T, d]``.
            bias: ``[heads, n, m]`` of at least the longest segment, or None; no gradient.
            segments: the borders.

        Returns:
            ``[S, heads, d]``.
        """
        ctx.segments, ctx.call = segments, None
        compiled = kernels(query)
        if attends(compiled, query, key, value):
            assert compiled is not None
            table, n_weights = segments.table(query.shape[0])
            if bias is not None and bias.shape[-1] < max(b - a for a, b in segments.queries):
                raise ValueError("the bias is smaller than the longest segment")
            dropout = segments.dropout if segments.draws else 0.0
            ctx.call = AttentionCall(
                compiled,
                query,
                key,
                bias=bias,
                table=table,
                scaling=segments.scaling,
                causal=segments.causal,
                dropout=dropout,
            )
            kept = query.new_empty(n_weights)
            ctx.save_for_backward(query, key, value, kept)
            mixed: torch.Tensor = ctx.call.forward(query, key, value, kept)
            return mixed
        heads, total, width = query.shape
        kv_heads = key.shape[0]
        groups = heads // kv_heads
        out = query.new_empty(total, heads, width)
        weights = []
        for number, (start, end) in enumerate(segments.queries):
            k, v = segments.of(number, key), segments.of(number, value)
            n, m = end - start, k.shape[1]
            q = query[:, start:end].reshape(kv_heads, groups * n, width)
            scores = torch.bmm(q, k.transpose(1, 2))
            p = _softmax(scores.view(heads, n, m), bias, segments, n, m)
            weights.append(p)
            dropped = _dropped(p, segments, number)
            mixed = torch.bmm(dropped.view(kv_heads, groups * n, m), v)
            out[start:end] = mixed.view(heads, n, width).transpose(0, 1)
        ctx.save_for_backward(query, key, value, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        """Gradients of query, key and value."""
        query, key, value, *weights = ctx.saved_tensors
        if ctx.call is not None:
            return *ctx.call.backward(query, key, value, weights[0], outer[0]), None, None
        segments: Segments = ctx.segments
        heads, _, width = query.shape
        kv_heads = key.shape[0]
        groups = heads // kv_heads
        grad = outer[0].transpose(0, 1)
        dq = torch.empty_like(query)
        dk, dv = torch.zeros_like(key), torch.zeros_like(value)
        for number, ((start, end), p) in enumerate(zip(segments.queries, weights, strict=True)):
            k, v = segments.of(number, key), segments.of(number, value)
            n, m = end - start, k.shape[1]
            q = query[:, start:end].reshape(kv_heads, groups * n, width)
            g = grad[:, start:end].reshape(kv_heads, groups * n, width)
            dropped = _dropped(p, segments, number).view(kv_heads, groups * n, m)
            segments.give_back(number, dv, torch.bmm(dropped.transpose(1, 2), g))
            dp = torch.bmm(g, v.transpose(1, 2)).view(heads, n, m)
            dp = _dropped(dp, segments, number)
            ds = torch._softmax_backward_data(dp.to(p.dtype), p, -1, p.dtype)
            ds = ds.mul_(segments.scaling).view(kv_heads, groups * n, m).to(query.dtype)
            dq[:, start:end] = torch.bmm(ds, k).view(heads, n, width)
            segments.give_back(number, dk, torch.bmm(ds.transpose(1, 2), q))
        return dq, dk, dv, None, None


def _softmax(
    scores: torch.Tensor, bias: torch.Tensor | None, segments: Segments, n: int, m: int
) -> torch.Tensor:
    if segments.scaling != 1.0:
        scores = scores.mul_(segments.scaling)
    if bias is not None:
        scores = scores.add_(bias[:, :n, :m])
    if segments.causal:
        hidden = torch.ones(n, m, dtype=torch.bool, device=scores.device).triu_(1 + m - n)
        scores = scores.masked_fill_(hidden, float("-inf"))
    # The kernel accumulates in fp32 whatever it reads and writes.
    return torch.softmax(scores, -1)


def _dropped(weights: torch.Tensor, segments: Segments, number: int) -> torch.Tensor:
    if segments.dropout <= 0 or segments.draws is None:
        return weights
    mask, keep = keep_mask(weights.numel(), segments.dropout, segments.draws[number])
    return weights * (mask.view(weights.shape).to(weights.device) * (1 / keep)).to(weights.dtype)
