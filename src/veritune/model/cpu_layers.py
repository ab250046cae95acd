"""Layers whose frozen weights need no gradient, with their gradients written out.

Autograd keeps and rereads every intermediate of a layer made of single operations; on a CPU
these passes over memory cost as much as the matrix products of a small model.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

_ROWS = 16
"""Rows of logits whose softmax is taken at a time: they stay in the processor's cache."""


class RootMeanSquare(torch.autograd.Function):
    """``w · x / sqrt(mean(x²) + eps)`` (Zhang & Sennrich, 2019); statistics in fp32 or wider."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """``[..., d]`` to ``[..., d]``; ``weight`` is frozen."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        if wide is x:
            return weight * (x * inverse)
        return wide.mul_(inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        """Gradient of the input."""
        x, weight, inverse = ctx.saved_tensors
        g = (outer[0] * weight).to(inverse.dtype)
        wide = x.to(inverse.dtype)
        dot = torch.linalg.vecdot(g, wide).unsqueeze(-1)
        dot.mul_(inverse.pow(3)).div_(-x.shape[-1])
        if g is outer[0]:
            g = g.clone()
        return g.mul_(inverse).addcmul_(wide, dot).to(x.dtype), None, None


class GatedSilu(torch.autograd.Function):
    """``silu(gate) · up`` (Shazeer, 2020)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Two ``[..., d]`` to one."""
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        g = outer[0]
        dgate = torch.ops.aten.silu_backward(g * up, gate)
        return dgate, F.silu(gate).mul_(g)


def root_mean_square(norm: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """What transformers' RMS norms compute, ``[..., d]`` to ``[..., d]``, with frozen weight."""
    y: torch.Tensor = RootMeanSquare.apply(  # type: ignore[no-untyped-call]
        hidden_states, norm.weight, norm.variance_epsilon
    )
    return y


def gated_mlp(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """``down(silu(gate(x)) · up(x))`` of a Llama-like MLP, ``[..., d]`` to ``[..., d]``."""
    mixed = GatedSilu.apply(mlp.gate_proj(x), mlp.up_proj(x))  # type: ignore[no-untyped-call]
    y: torch.Tensor = mlp.down_proj(mixed)
    return y


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropies of ``hidden Wᵀ``, where W is frozen: no logits are kept.

    The gradient of the hidden states is made in the forward pass, chunk by chunk, as in
    Liger (Hsu et al., 2024); memory is that of one chunk of logits.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        chunk: int,
        importance: torch.Tensor | None,
    ) -> torch.Tensor:
        """Sum the loss.

        Args:
            ctx: autograd's.
            hidden: ``[n, d]``; weight: ``[V, d]``; labels: ``[n]``.
            chunk: rows of logits at a time.
            importance: ``[n]``, factor of each position's gradient and loss, or None.

        Returns:
            ``[n]`` cross-entropies in nats, fp32 or wider, each times its importance.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(hidden.shape[0], dtype=wide, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for low in range(0, hidden.shape[0], chunk):
            logits = F.linear(hidden[low : low + chunk], weight)
            wanted = labels[low : low + chunk].unsqueeze(1)
            for row in range(0, len(logits), _ROWS):
                part = logits[row : row + _ROWS]
                truth = wanted[row : row + _ROWS]
                here = slice(low + row, low + row + len(part))
                x = part.to(wide)
                p = torch.softmax(x, -1)
                # The largest probability never underflows, the label's may.
                total = x.amax(-1) - p.amax(-1).log()
                losses[here] = total - x.gather(1, truth).squeeze(1)
                if gradient is not None:
                    p.scatter_add_(1, truth, p.new_full(truth.shape, -1.0))
                    if importance is not None:
                        p.mul_(importance[here].to(wide).unsqueeze(1))
                    part.copy_(p)
            if gradient is not None:
                torch.mm(logits, weight, out=gradient[low : low + chunk])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses if importance is None else losses * importance

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        """Gradient of the hidden states."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].unsqueeze(1).to(gradient.dtype), None, None, None, None
