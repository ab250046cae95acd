"""Dropout whose mask is drawn again for the gradient, so that nothing is kept of it."""

from __future__ import annotations

from typing import Any

import torch

from veritune.model.counted_dropout import Draw, keep_mask
from veritune.model.native.kernels import drop, kernels


class Dropped(torch.autograd.Function):
    """``x / keep`` where its mask is true, else 0."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, p: float, draws: list[tuple[int, int, Draw]]
    ) -> torch.Tensor:
        """Drop.

        Args:
            ctx: autograd's.
            x: ``[..., d]``.
            p: probability of an entry to drop.
            draws: (first row, end, mask) of rows of ``x`` as ``[n, d]``; all of them are named.
        """
        ctx.p, ctx.draws = p, draws
        return _dropped(x, p, draws)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        """The same entries drop from the gradient."""
        return _dropped(outer[0], ctx.p, ctx.draws), None, None


def _dropped(x: torch.Tensor, p: float, draws: list[tuple[int, int, Draw]]) -> torch.Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    rows, out = x.view(-1, x.shape[-1]), y.view(-1, x.shape[-1])
    compiled = kernels(x)
    for start, end, draw in draws:
        part, to = rows[start:end], out[start:end]
        if compiled is not None:
            drop(compiled, part, to, p, draw)
        else:
            mask, keep = keep_mask(part.numel(), p, draw)
            torch.mul(part, mask.view(part.shape).to(x).div_(keep), out=to)
    return y
