"""Linear layers with K adapters over rows of fixed length: nothing depends on a number read back.

``x`` is ``[K, n, d_in]``, row k the tokens of adapter k: ``y_k = x_k Wᵀ + s_k · drop(x_k) A_kᵀ
B_kᵀ``.  Ranks are padded with zeros to the largest; the padding takes part in no gradient.  The
masks of the dropout are not kept but drawn again for the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from veritune.model.device_dropout import Signals, keep_mask, keeping
from veritune.model.stacked_lora import Factors, Situation, StackedLoRALinear, Stream


class FixedLoRALinear(StackedLoRALinear):
    """Frozen linear layers over one input, with adapter k on row k.

    Args:
        members, factors, stream: as in ``StackedLoRALinear``.
        signals: seeds and counters of the K adapters.
        adapters: K; numbers without factors leave their row to the base.
    """

    def __init__(
        self,
        members: Sequence[nn.Linear],
        factors: dict[int, list[Factors | None]],
        stream: Stream,
        *,
        signals: Signals,
        adapters: int,
    ) -> None:
        super().__init__(members, factors, Situation(), stream)
        self.signals = signals
        self.adapters = adapters
        device = self.weight.device
        self.ranks: list[int] = []
        self.dropping: list[bool] = []
        for index in range(len(members)):
            own = [self._of(adapter, index) for adapter in range(adapters)]
            rank = max((f.a.shape[0] for f in own if f is not None), default=0)
            drops = torch.tensor([f.dropout if f else 0.0 for f in own], device=device)
            scaling = torch.tensor(
                [f.scaling if f else 0.0 for f in own], dtype=torch.float64, device=device
            )
            site = next((f.site for f in own if f is not None), 0)
            self.register_buffer(f"drop{index}", drops, persistent=False)
            self.register_buffer(f"scaling{index}", scaling, persistent=False)
            self.register_buffer(
                f"site{index}",
                torch.tensor(site, dtype=torch.int32, device=device),
                persistent=False,
            )
            self.ranks.append(rank)
            self.dropping.append(any(f.dropout > 0 for f in own if f is not None))

    def _of(self, adapter: int, index: int) -> Factors | None:
        own = self.factors.get(adapter)
        return None if own is None else own[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[K, n, d_in]`` to ``[K, n, Σ d_out]``."""
        sizes, keys, drops, scalings, factors = [], [], [], [], []
        low = 0
        for index, size in enumerate(self.sizes):
            if self.ranks[index]:
                a, b = self._stacks(index, size, x.shape[-1])
                factors += [a, b]
                sizes.append((low, low + size))
                scalings.append(getattr(self, f"scaling{index}"))
                drops.append(getattr(self, f"drop{index}"))
                draws = self.training and self.dropping[index]
                keys.append(self.signals.keys(getattr(self, f"site{index}")) if draws else None)
            low += size
        if not factors:
            return F.linear(x, self.weight, self.bias)
        y: torch.Tensor = _Fixed.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, sizes, keys, drops, scalings, *factors
        )
        return y

    def _stacks(self, index: int, size: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``[K, r, d_in]`` and ``[K, d_out, r]`` in the adapters' own precision."""
        own = [self._of(adapter, index) for adapter in range(self.adapters)]
        rank = self.ranks[index]
        if self.adapters == 1:
            assert own[0] is not None
            return own[0].a.unsqueeze(0), own[0].b.unsqueeze(0)
        like = next(f.a for f in own if f is not None)
        a = [
            F.pad(f.a, (0, 0, 0, rank - f.a.shape[0])) if f else like.new_zeros(rank, width)
            for f in own
        ]
        b = [F.pad(f.b, (0, rank - f.b.shape[1])) if f else like.new_zeros(size, rank) for f in own]
        return torch.stack(a), torch.stack(b)


class _Fixed(torch.autograd.Function):
    """The product and its gradient."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        sizes: list[tuple[int, int]],
        keys: list[torch.Tensor | None],
        drops: list[torch.Tensor],
        scalings: list[torch.Tensor],
        *factors: torch.Tensor,
    ) -> torch.Tensor:
        y = F.linear(x, weight, bias)
        hidden = []
        for number, (low, high) in enumerate(sizes):
            a, b = factors[2 * number].to(x.dtype), factors[2 * number + 1].to(x.dtype)
            z = torch.bmm(_drop(x, keys[number], drops[number]), a.transpose(1, 2))
            z = z * scalings[number].to(x.dtype)[:, None, None]
            y[..., low:high] += torch.bmm(z, b.transpose(1, 2))
            hidden.append(z)
        held = [key for key in keys if key is not None]
        ctx.save_for_backward(x, weight, *drops, *scalings, *held, *factors, *hidden)
        ctx.sizes, ctx.drawn = sizes, [key is not None for key in keys]
        return y

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        dy = outer[0]
        n, n_held = len(ctx.sizes), sum(ctx.drawn)
        x, weight, *rest = ctx.saved_tensors
        drops, rest = rest[:n], rest[n:]
        scalings, rest = rest[:n], rest[n:]
        held, rest = iter(rest[:n_held]), rest[n_held:]
        factors, hidden = rest[: 2 * n], rest[2 * n :]
        dx = dy @ weight if ctx.needs_input_grad[0] else None
        gradients: list[torch.Tensor] = []
        for number, (low, high) in enumerate(ctx.sizes):
            a, b = factors[2 * number], factors[2 * number + 1]
            key = next(held) if ctx.drawn[number] else None
            out = dy[..., low:high]
            dz = torch.bmm(out, b.to(x.dtype)) * scalings[number].to(x.dtype)[:, None, None]
            dropped = _drop(x, key, drops[number])
            gradients.append(torch.bmm(dz.transpose(1, 2), dropped).to(a.dtype))
            gradients.append(torch.bmm(out.transpose(1, 2), hidden[number]).to(b.dtype))
            if dx is not None:
                dx = dx + _drop(torch.bmm(dz, a.to(x.dtype)), key, drops[number])
        return dx, None, None, None, None, None, None, *gradients


def _drop(x: torch.Tensor, key: torch.Tensor | None, p: torch.Tensor) -> torch.Tensor:
    """``[K, n, d]`` with each adapter's entries dropped and the others scaled up."""
    if key is None:
        return x
    kept = keep_mask(key, x.shape[1], x.shape[2], p)
    return x * (kept / keeping(p)[:, None, None]).to(x.dtype)


class FixedDropout:
    """Dropout of a base model over rows of fixed length, drawn by adapter, step and site."""

    def __init__(
        self, layer: nn.Dropout, signals: Signals, site: int, device: torch.device
    ) -> None:
        self.layer, self.signals = layer, signals
        self.site = torch.tensor(site, dtype=torch.int32, device=device)
        self.p = torch.full((len(signals.seeds),), float(layer.p), device=device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[K, n, d]``, in training with entries dropped."""
        if not self.layer.training or self.layer.p <= 0:
            return x
        dropped: torch.Tensor = _Dropped.apply(x, self.signals.keys(self.site), self.p)  # type: ignore[no-untyped-call]
        return dropped


class _Dropped(torch.autograd.Function):
    """A dropout that draws its mask again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, key: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(key, p)
        return _drop(x, key, p)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        key, p = ctx.saved_tensors
        return _drop(outer[0], key, p), None, None
