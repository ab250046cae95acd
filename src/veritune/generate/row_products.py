"""Frozen linear layers for a few rows at a time, each row with its own adapter or none.

``y = x Wᵀ + g · (x Aᵀ) Bᵀ``, where A and B hold the factors of all adapters side by side and
``g`` is 1 at the ranks of the row's own adapter and 0 elsewhere: rows of the base and of any
adapter pass together and in any order.  Adapters are never folded into W, so every system
answers by the very same weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from veritune.generate.native.structures import in_strips
from veritune.generate.native.structures import in_turns as strips_in_turns
from veritune.model.hardware import available_bytes, cpu_has_bf16

_ROWS_HINT = 16
"""Rows that packed weights are laid out for; other numbers work too."""


@dataclass(frozen=True)
class _Frozen:
    """The base's part of a product.

    Attributes:
        weights: as the model holds them, one a layer; packed: all in one, or None.
    """

    weights: list[torch.Tensor]
    bias: torch.Tensor | None
    packed: torch.Tensor | None
    signature: tuple[Any, ...]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed is not None:
            y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.packed, self.bias, "none", [], ""
            )
            return y
        parts = [F.linear(x, weight) for weight in self.weights]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return y if self.bias is None else y.add_(self.bias)


@dataclass(frozen=True)
class Factors:
    """What adapters add: ``a [r, d_in]`` and ``b [d_out, r]``, scaled.

    Of several adapters the ranks stand one after the other.
    """

    a: torch.Tensor
    b: torch.Tensor


class Who:
    """Which adapter each row of one pass belongs to.

    Args:
        only: number of the one adapter that all rows share, 0 for the base, None for a mix.
        systems: ``[rows]``, each row's adapter number from 1, or 0; read where it is a mix.
    """

    def __init__(self, only: int | None, systems: torch.Tensor) -> None:
        self.only = only
        self._systems = systems
        self._gates: dict[tuple[int, ...], torch.Tensor] = {}

    def gate(self, ranks: tuple[int, ...], table: torch.Tensor) -> torch.Tensor:
        """``[rows, Σ ranks]``: 1 at the row's own ranks.

        Args:
            table: ``[adapters + 1, Σ ranks]``, the same for the same ranks.
        """
        if ranks not in self._gates:
            self._gates[ranks] = table[self._systems]
        return self._gates[ranks]


class RowProduct:
    """Layers that read the same input, as one product.

    Args:
        layers: linear layers or PEFT's LoRA layers around them.
        adapters: PEFT's names; the first is number 1.
        frozen: where the base's parts are kept between uses.
    """

    def __init__(
        self, layers: Sequence[Any], adapters: Sequence[str], frozen: FrozenWeights
    ) -> None:
        self.linears = [linear_of(layer) for layer in layers]
        self._kept = frozen
        self._frozen = frozen.of(self.linears)
        self.sizes = [linear.out_features for linear in self.linears]
        self._factors = [_joined_factors(layers, self.sizes, name) for name in adapters]
        self.ranks = tuple(0 if f is None else len(f.a) for f in self._factors)
        self._table = _gates(self.ranks, self.linears[0].weight.device)
        present = [f for f in self._factors if f is not None]
        self.joint: Factors | None = None
        if len(present) > 1:
            self.joint = Factors(
                torch.cat([f.a for f in present]), torch.cat([f.b for f in present], 1)
            )
        elif present:
            self.joint = present[0]

    def strips(self, *, in_turns: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The frozen weight as the pass in C reads it, and the bias.

        Args:
            in_turns: 16 outputs of the one and of the other of two layers in turn.
        """
        return self._kept.strips(self.linears, in_turns=in_turns), self._frozen.bias

    def __call__(self, x: torch.Tensor, who: Who) -> torch.Tensor:
        """``[rows, d_in]`` to ``[rows, Σ d_out]``."""
        y = self._frozen(x)
        if who.only == 0 or self.joint is None:
            return y
        if who.only is not None:
            factors = self._factors[who.only - 1]
            if factors is None:
                return y
            z = F.linear(x.to(factors.a.dtype), factors.a)
        else:
            factors = self.joint
            z = F.linear(x.to(factors.a.dtype), factors.a)
            z.mul_(who.gate(self.ranks, self._table))
        return y.add_(F.linear(z, factors.b))


class FrozenWeights:
    """The base's weights in the layout that is quickest to multiply by.

    On a CPU they are laid out once by oneDNN, which takes as much memory again; where that is
    not to be had they stay as they are.
    """

    def __init__(self, base: nn.Module) -> None:
        self.has_room = _has_room(base)
        self.packs = _packs(base)
        self._kept: dict[tuple[int, ...], _Frozen] = {}
        self._strips: dict[tuple[int, ...], tuple[tuple[Any, ...], torch.Tensor]] = {}

    def of(self, linears: Sequence[nn.Linear]) -> _Frozen:
        """The joint product of some layers; laid out anew if a weight has changed."""
        key = tuple(id(linear) for linear in linears)
        signature = tuple(_state(linear) for linear in linears)
        kept = self._kept.get(key)
        if kept is None or kept.signature != signature:
            kept = self._kept[key] = self._build(linears, signature)
        return kept

    def strips(self, linears: Sequence[nn.Linear], *, in_turns: bool) -> torch.Tensor:
        """The joint weight of some layers in strips, see ``native.structures``."""
        key = tuple(id(linear) for linear in linears)
        signature = tuple(_state(linear) for linear in linears)
        kept = self._strips.get(key)
        if kept is None or kept[0] != signature:
            weights = [linear.weight.detach() for linear in linears]
            joint = strips_in_turns(*weights) if in_turns else torch.cat(weights)
            kept = self._strips[key] = signature, in_strips(joint)
        return kept[1]

    def _build(self, linears: Sequence[nn.Linear], signature: tuple[Any, ...]) -> _Frozen:
        weights = [linear.weight.detach() for linear in linears]
        bias = None
        if any(linear.bias is not None for linear in linears):
            bias = torch.cat(
                [
                    linear.weight.new_zeros(linear.out_features)
                    if linear.bias is None
                    else linear.bias.detach()
                    for linear in linears
                ]
            )
        packed = None
        if self.packs:
            joint = weights[0] if len(weights) == 1 else torch.cat(weights)
            packed = torch.ops.mkldnn._reorder_linear_weight(joint.contiguous(), _ROWS_HINT)
        return _Frozen(weights, bias, packed, signature)


_KEPT: weakref.WeakKeyDictionary[nn.Module, FrozenWeights] = weakref.WeakKeyDictionary()


def frozen_weights(base: nn.Module) -> FrozenWeights:
    """A model's frozen weights, kept as long as the model lives."""
    if base not in _KEPT:
        _KEPT[base] = FrozenWeights(base)
    return _KEPT[base]


def owner_of(systems: Sequence[int]) -> int | None:
    """The one system of all rows, or None."""
    return systems[0] if len(set(systems)) == 1 else None


def linear_of(layer: Any) -> nn.Linear:
    """The plain linear layer that is, or is inside, ``layer``."""
    found = getattr(layer, "base_layer", layer)
    assert isinstance(found, nn.Linear)
    return found


def is_row_layer(layer: Any, adapters: Sequence[str]) -> bool:
    """Whether a layer is linear with nothing but plain, unmerged LoRA on it."""
    if type(getattr(layer, "base_layer", layer)) is not nn.Linear:
        return False
    if type(layer) is nn.Linear:
        return True
    if not hasattr(layer, "lora_A") or layer.merged:
        return False
    return not any(
        name in layer.lora_variant or layer.lora_bias.get(name, False)
        for name in adapters
        if name in layer.lora_A
    )


def foreign_layer(root: nn.Module, names: Collection[str], adapters: Sequence[str]) -> str | None:
    """The first of a model's layers called one of ``names`` that is no row layer, or None."""
    return next(
        (
            f"layer {name}"
            for name, module in root.named_modules()
            if name.rpartition(".")[2] in names and not is_row_layer(module, adapters)
        ),
        None,
    )


def _joined_factors(layers: Sequence[Any], sizes: Sequence[int], adapter: str) -> Factors | None:
    """A of all layers on top of each other, B as one block-diagonal matrix."""
    inside = [
        (index, layer)
        for index, layer in enumerate(layers)
        if adapter in getattr(layer, "lora_A", {})
    ]
    if not inside:
        return None
    a = [layer.lora_A[adapter].weight.detach() for _, layer in inside]
    wide = torch.zeros(sum(sizes), sum(len(f) for f in a), dtype=a[0].dtype, device=a[0].device)
    column = 0
    for index, layer in inside:
        b = layer.lora_B[adapter].weight.detach() * layer.scaling[adapter]
        row = sum(sizes[:index])
        wide[row : row + sizes[index], column : column + b.shape[1]] = b
        column += b.shape[1]
    return Factors(torch.cat(a), wide)


def _gates(ranks: Sequence[int], device: torch.device) -> torch.Tensor:
    table = torch.zeros(len(ranks) + 1, sum(ranks))
    low = 0
    for number, rank in enumerate(ranks, 1):
        table[number, low : low + rank] = 1
        low += rank
    return table.to(device)


def _state(linear: nn.Linear) -> tuple[int, ...]:
    found: list[int] = []
    for tensor in (linear.weight, linear.bias):
        if tensor is not None:
            version = 0 if tensor.is_inference() else tensor._version
            found += [tensor.data_ptr(), version]
    return tuple(found)


def _packs(base: nn.Module) -> bool:
    weight = next(base.parameters())
    if weight.device.type != "cpu":
        return False
    if weight.dtype != torch.float32 and not (weight.dtype == torch.bfloat16 and cpu_has_bf16()):
        return False
    return _has_room(base) and _packing_is_exact()


def _has_room(base: nn.Module) -> bool:
    """Whether the weights fit into memory once more, and leave half of it."""
    needed = sum(p.numel() * p.element_size() for p in base.parameters())
    return available_bytes(next(base.parameters()).device) > 2 * needed


def _packing_is_exact() -> bool:
    """Whether this torch has the packed product, and it is in full precision."""
    try:
        x, w = torch.linspace(-1, 1, 96).view(3, 32), torch.linspace(1, -1, 1280).view(40, 32)
        packed = torch.ops.mkldnn._reorder_linear_weight(w, _ROWS_HINT)
        y = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool(torch.allclose(y, F.linear(x, w), rtol=1e-5, atol=1e-5))
