"""The structs of ``forward.c``, and tensors as they stand in them."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

TILE = 16
"""Outputs of one strip of a weight, and rows of one tile."""

_Pointer = ctypes.c_void_p
_Long = ctypes.c_int64
_Float = ctypes.c_float


class Product(ctypes.Structure):
    """A frozen weight in strips with what adapters add to it."""

    _fields_ = [
        *((name, _Pointer) for name in ("weight", "bias", "a", "b", "ranks")),
        *((name, _Long) for name in ("n", "k", "rank")),
    ]


class Layer(ctypes.Structure):
    """One decoder layer; what an architecture lacks stays null."""

    _fields_ = [
        *((name, Product) for name in ("qkv", "o", "cross_q", "cross_o", "gate_up", "down")),
        *((f"norm_{name}", _Pointer) for name in ("before", "cross", "between", "q", "k")),
    ]


class Model(ctypes.Structure):
    """All that stays the same from pass to pass."""

    _fields_ = [
        ("layers", ctypes.POINTER(Layer)),
        *((name, _Long) for name in ("n_layers", "dim", "inner", "heads", "kv_heads", "width")),
        *((name, _Long) for name in ("activation", "gated", "threads")),
        *((name, _Float) for name in ("eps", "head_eps", "scale", "unused")),
        ("embed", _Pointer),
        ("norm_last", _Pointer),
        ("head", Product),
    ]


class Batch(ctypes.Structure):
    """The rows of one pass and the memory they use."""

    _fields_ = [
        *((name, _Pointer) for name in ("tokens", "positions", "systems", "slots", "outs")),
        ("logits", _Pointer),
        ("caches", ctypes.POINTER(_Pointer)),
        ("sources", ctypes.POINTER(_Pointer)),
        ("source_lengths", _Pointer),
        *((name, _Pointer) for name in ("cos", "sin", "bias", "h", "qkv", "z", "x", "inner")),
        *((name, _Long) for name in ("rows", "n_out", "cache_slots", "window")),
        *((name, _Long) for name in ("source_slots", "source_window", "bias_width", "z_width")),
    ]


class Held:
    """Keeps tensors alive as long as C may read them."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []

    def pointer(self, tensor: torch.Tensor | None, dtype: torch.dtype | None = None) -> Any:
        """The address of a tensor's contiguous data, in ``dtype`` if given."""
        if tensor is None:
            return None
        kept = tensor.detach().to(dtype=dtype or tensor.dtype).contiguous()
        self._tensors.append(kept)
        return kept.data_ptr()


def in_strips(weight: torch.Tensor) -> torch.Tensor:
    """``[n, k]`` as strips of 16 outputs, ``[n / 16, k / p, 16, p]``; p is 2 in bf16, else 1."""
    n, k = weight.shape
    pair = 4 // weight.element_size()
    short = -n % TILE
    if short:
        weight = torch.cat((weight, weight.new_zeros(short, k)))
    return weight.view(-1, TILE, k // pair, pair).permute(0, 2, 1, 3).contiguous()


def in_turns(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Two weights of one shape as one, 16 outputs of each in turn."""
    k = one.shape[1]
    return torch.stack((one.view(-1, TILE, k), other.view(-1, TILE, k)), 1).view(-1, k)
