"""One frozen linear layer, or several that read the same input, with K adapters on top.

``y = x Wᵀ + (alpha/r) · dropout(x) Aᵀ Bᵀ`` (Hu et al., 2021), where tokens ``s:e`` of the row
belong to adapter k and see only ``A_k`` and ``B_k``.  Layers that share an input (q, k, v;
gate, up) share one base product and one A product; B is laid out as one block matrix.
K = 1, all tokens of one adapter, is the ordinary case.  Ranks may differ: nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from veritune.model.counted_dropout import Draw, dropped_positions
from veritune.model.native.kernels import LoraCall, adapts, kernels

Stream = Literal["source", "target"]


@dataclass(frozen=True)
class Factors:
    """One adapter's part in one linear layer.

    Attributes:
        a: ``[r, d_in]``; b: ``[d_out, r]``; trained in place, so PEFT saves them.
        scaling: alpha / r, or alpha / sqrt(r).
        dropout: probability of an entry of the layer's input to drop, in training.
        site: number of the layer in the model, for the dropout's counter.
    """

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    dropout: float
    site: int


@dataclass
class Situation:
    """What the layers need to know about the row that passes through them.

    Attributes:
        ranges: by stream, (adapter, first token, end) in order; a stream that is not named
            belongs to adapter 0 as a whole.
        seeds: of each adapter; counters: of each adapter, its forward passes so far.
    """

    ranges: dict[Stream, list[tuple[int, int, int]]] = field(default_factory=dict)
    seeds: dict[int, int] = field(default_factory=lambda: {0: 0})
    counters: dict[int, int] = field(default_factory=lambda: {0: 0})

    def of(self, stream: Stream, n: int) -> list[tuple[int, int, int]]:
        """The ranges of a row of ``n`` tokens."""
        return self.ranges.get(stream) or [(0, 0, n)]

    def draw(self, adapter: int, site: int) -> Draw:
        """The name of one adapter's mask at one site."""
        return Draw(self.seeds.get(adapter, 0), self.counters.get(adapter, 0), site)

    def segment_draws(
        self, site: int, segments: Sequence[tuple[int, int]], stream: Stream
    ) -> list[Draw]:
        """Names of the masks of each segment's attention weights: its adapter's, then its place.

        Sites of segments lie above those of layers, a 2**20 apart.
        """
        ranges = self.of(stream, segments[-1][1])
        draws, place = [], 0
        for start, _ in segments:
            adapter, first, _ = next(r for r in ranges if r[1] <= start < r[2])
            place = 1 if start == first else place + 1
            draws.append(self.draw(adapter, site + (place << 20)))
        return draws


class StackedLoRALinear(nn.Module):
    """Frozen linear layers over one input, with the adapters that a situation assigns.

    Args:
        members: the frozen layers; their weights become views of one joint weight.
        factors: by adapter, one entry a member; None where the adapter leaves it alone.
        stream: which tokens are its input.
    """

    def __init__(
        self,
        members: Sequence[nn.Linear],
        factors: dict[int, list[Factors | None]],
        situation: Situation,
        stream: Stream,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(_joint([m.weight for m in members]), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if any(member.bias is not None for member in members):
            parts = [
                member.bias if member.bias is not None else member.weight.new_zeros(size)
                for member, size in ((m, m.out_features) for m in members)
            ]
            self.bias = nn.Parameter(torch.cat([p.detach() for p in parts]), requires_grad=False)
        self.sizes = [member.out_features for member in members]
        self.factors = factors
        self.situation = situation
        self.stream = stream
        self._input: torch.Tensor | None = None
        self._parts: list[torch.Tensor | None] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., d_in]`` to ``[..., Σ d_out]``."""
        flat = x.reshape(-1, x.shape[-1])
        tensors: list[torch.Tensor] = []
        pieces: list[_Piece] = []
        for adapter, start, end in self.situation.of(self.stream, flat.shape[0]):
            row = 0
            for size, factors in zip(self.sizes, self.factors.get(adapter, []), strict=False):
                if factors is not None:
                    drops = None
                    if self.training and factors.dropout > 0:
                        drops = dropped_positions(
                            (end - start) * flat.shape[1],
                            factors.dropout,
                            self.situation.draw(adapter, factors.site),
                        ).to(flat.device)
                    pieces.append(
                        _Piece(start, end, row, row + size, factors.scaling, factors.dropout, drops)
                    )
                    tensors += [factors.a, factors.b]
                row += size
        if not pieces:
            return F.linear(x, self.weight, self.bias)
        y: torch.Tensor = _Stacked.apply(flat, self.weight, self.bias, pieces, *tensors)  # type: ignore[no-untyped-call]
        return y.reshape(*x.shape[:-1], -1)

    def member(self, index: int, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """One member's output; the first to ask computes those of all for this input.

        Args:
            layer: the member, which knows whether it is being trained.
        """
        self.training = layer.training
        if self._input is not x or self._parts[index] is None:
            self._parts = list(self(x).split(self.sizes, dim=-1))
            self._input = x
        part = self._parts[index]
        assert part is not None
        self._parts[index] = None
        if all(other is None for other in self._parts):
            self._input, self._parts = None, []
        return part


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens ``start:end`` through one adapter into outputs ``low:high``."""

    start: int
    end: int
    low: int
    high: int
    scaling: float
    dropout: float
    drops: torch.Tensor | None

    @property
    def inverse_keep(self) -> float:
        return 1 / (1 - self.dropout) if self.drops is not None else 1.0


@dataclass(frozen=True)
class _Group:
    """The pieces of one token range, with their factors side by side."""

    pieces: list[tuple[int, _Piece]]
    a: torch.Tensor
    b: torch.Tensor
    ranks: list[slice]

    @property
    def tokens(self) -> slice:
        first = self.pieces[0][1]
        return slice(first.start, first.end)


def _groups(
    pieces: list[_Piece], factors: Sequence[torch.Tensor], dtype: torch.dtype, width: int
) -> list[_Group]:
    """A ``[R, d_in]`` over (1 - p) and block-diagonal, scaled B ``[width, R]``, by token range."""
    groups = []
    at = 0
    while at < len(pieces):
        end = at
        while end < len(pieces) and pieces[end].start == pieces[at].start:
            end += 1
        inside = [(index, pieces[index]) for index in range(at, end)]
        ranks, total = [], 0
        for index, _ in inside:
            r = factors[2 * index].shape[0]
            ranks.append(slice(total, total + r))
            total += r
        a = torch.cat([factors[2 * index] * piece.inverse_keep for index, piece in inside])
        b = torch.zeros(width, total, dtype=dtype, device=a.device)
        for (index, piece), columns in zip(inside, ranks, strict=True):
            b[piece.low : piece.high, columns] = factors[2 * index + 1] * piece.scaling
        groups.append(_Group(inside, a.to(dtype), b, ranks))
        at = end
    return groups


class _Stacked(torch.autograd.Function):
    """The product and its gradient; dropped entries are taken back one by one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        pieces: list[_Piece],
        *factors: torch.Tensor,
    ) -> torch.Tensor:
        y = F.linear(x, weight, bias)
        hidden = []
        ctx.pieces, ctx.calls = pieces, None
        compiled = kernels(x)
        borders = [border for piece in pieces for border in (piece.low, piece.high)]
        if adapts(compiled, x, borders):
            ctx.calls = _calls(compiled, _groups(pieces, factors, torch.float32, y.shape[1]))
            hidden = [call.forward(x[g.tokens], y[g.tokens]) for g, call in ctx.calls]
            ctx.save_for_backward(x, weight, *factors, *hidden)
            return y
        groups = _groups(pieces, factors, x.dtype, y.shape[1])
        for group in groups:
            rows = x[group.tokens]
            z = rows @ group.a.t()
            for (_, piece), columns in zip(group.pieces, group.ranks, strict=True):
                if piece.drops is not None:
                    token, entry = _split(piece.drops, x.shape[1])
                    lost = rows[token, entry].unsqueeze(1) * group.a[columns].t()[entry]
                    z[:, columns].index_add_(0, token, lost, alpha=-1)
            y[group.tokens].addmm_(z, group.b.t())
            hidden.append(z)
        ctx.save_for_backward(x, weight, *factors, *hidden)
        return y

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        dy = outer[0].contiguous()
        x, weight, *saved = ctx.saved_tensors
        n = 2 * len(ctx.pieces)
        factors, hidden = saved[:n], saved[n:]
        dx = dy @ weight if ctx.needs_input_grad[0] else None
        if ctx.calls is not None:
            gradients = _compiled_gradients(ctx.calls, factors, x, dy, hidden, dx)
        else:
            groups = _groups(ctx.pieces, factors, x.dtype, dy.shape[1])
            gradients = _gradients(groups, factors, x, dy, hidden, dx)
        return dx, None, None, None, *gradients


def _gradients(  # noqa: PLR0917 - all of it belongs to one backward pass
    groups: list[_Group],
    factors: Sequence[torch.Tensor],
    x: torch.Tensor,
    dy: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    dx: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Gradients of the factors in their order; that of the input is added to ``dx``."""
    gradients = [torch.empty(0)] * len(factors)
    for group, z in zip(groups, hidden, strict=True):
        rows, out = x[group.tokens], dy[group.tokens]
        dz = out @ group.b
        da = dz.t() @ rows
        db = out.t() @ z
        part = dx[group.tokens] if dx is not None else None
        if part is not None:
            part.addmm_(dz, group.a)
        for (index, piece), columns in zip(group.pieces, group.ranks, strict=True):
            da_piece = da[columns]
            if piece.drops is not None:
                token, entry = _split(piece.drops, x.shape[1])
                own = dz[:, columns][token]
                lost = own * rows[token, entry].unsqueeze(1)
                taken = torch.zeros(x.shape[1], lost.shape[1], dtype=lost.dtype, device=x.device)
                da_piece = da_piece - taken.index_add_(0, entry, lost).t()
                if part is not None:
                    back = (own * group.a[columns].t()[entry]).sum(1)
                    part[token, entry] -= back
            a, b = factors[2 * index], factors[2 * index + 1]
            gradients[2 * index] = da_piece.to(a.dtype) * piece.inverse_keep
            of_b = db[piece.low : piece.high, columns]
            gradients[2 * index + 1] = of_b.to(b.dtype) * piece.scaling
    return gradients


def _compiled_gradients(  # noqa: PLR0917 - all of it belongs to one backward pass
    calls: list[tuple[_Group, LoraCall]],
    factors: Sequence[torch.Tensor],
    x: torch.Tensor,
    dy: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    dx: torch.Tensor | None,
) -> list[torch.Tensor]:
    """As ``_gradients``."""
    gradients = [torch.empty(0)] * len(factors)
    for (group, call), z in zip(calls, hidden, strict=True):
        part = dx[group.tokens] if dx is not None else None
        da, db = call.backward(x[group.tokens], dy[group.tokens], z, part)
        for (index, piece), own in zip(group.pieces, group.ranks, strict=True):
            a, b = factors[2 * index], factors[2 * index + 1]
            gradients[2 * index] = da[own].to(a.dtype) * piece.inverse_keep
            of_b = db[own, piece.low : piece.high].t()
            gradients[2 * index + 1] = of_b.to(b.dtype) * piece.scaling
    return gradients


def _calls(compiled: Any, groups: list[_Group]) -> list[tuple[_Group, LoraCall]]:
    calls = []
    for group in groups:
        rows, drops, at = [], [], 0
        for (_, piece), own in zip(group.pieces, group.ranks, strict=True):
            count = 0 if piece.drops is None else len(piece.drops)
            rows.append((piece.low, piece.high, own.start, own.stop, at, at + count))
            at += count
            if piece.drops is not None:
                drops.append(piece.drops)
        table = np.array(rows, dtype=np.int64)
        every = torch.cat(drops) if drops else torch.empty(0, dtype=torch.long)
        call = LoraCall(compiled, group.a, group.b.t().contiguous(), table, every)
        calls.append((group, call))
    return calls


def _split(positions: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    token = positions // width
    return token, positions - token * width


def _joint(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    return weights[0].detach() if len(weights) == 1 else torch.cat([w.detach() for w in weights])
