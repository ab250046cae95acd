"""The C of training, called on tensors; see ``train.c``."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from veritune.model.counted_dropout import Draw, threshold_of
from veritune.model.native.build import library

SOURCE = Path(__file__).with_name("train.c")
_TILE = 16
_Pointer = ctypes.c_void_p
_Long = ctypes.c_int64
_Float = ctypes.c_float


class _Draw(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("seed", "site", "step")]


class _Rows(ctypes.Structure):
    _fields_ = [("at", _Pointer), ("head", _Long), ("token", _Long)]


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, _Rows) for name in ("q", "k", "v", "out", "dq", "dk", "dv")),
        ("bias", _Pointer),
        ("weights", _Pointer),
        ("segments", _Pointer),
        *((name, _Long) for name in ("n_segments", "heads", "kv_heads", "width")),
        *((name, _Long) for name in ("bias_n", "causal", "threshold", "threads")),
        ("scaling", _Float),
        ("scale", _Float),
    ]


class _Lora(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("x", "dy", "y", "dx", "a", "b", "z", "da", "db")),
        ("drops", _Pointer),
        ("pieces", _Pointer),
        *((name, _Long) for name in ("n_pieces", "tokens", "k", "n", "rank", "threads")),
    ]


def kernels(like: torch.Tensor) -> ctypes.CDLL | None:
    """The library for tensors like this one, or None where torch computes."""
    return library(SOURCE, like.dtype) if like.device.type == "cpu" else None


def drop(compiled: ctypes.CDLL, x: torch.Tensor, y: torch.Tensor, p: float, draw: Draw) -> None:
    """``y = x / keep`` where ``counted_dropout.keep_mask`` is true, else 0; both contiguous."""
    threshold, keep = threshold_of(p)
    compiled.drop(
        _Pointer(x.data_ptr()),
        _Pointer(y.data_ptr()),
        _Long(x.numel()),
        ctypes.byref(_Draw(draw.seed % 2**64, draw.site, draw.step)),
        _Long(threshold),
        _Float(1 / keep),
        _Long(torch.get_num_threads()),
    )


class AttentionCall:
    """Attention inside the segments of one row and its gradient, on the same tensors.

    Args:
        query: ``[heads, S, d]``; key: ``[kv_heads, T, d]``; both for their sizes.
        bias: ``[heads, n, n]`` or None.
        table: ``[segments, 10]`` int64: first query, count, first key of its own, count, first
            key of a shared prefix, count, where its weights begin, and a draw's seed, site
            and step.
    """

    def __init__(
        self,
        compiled: ctypes.CDLL,
        query: torch.Tensor,
        key: torch.Tensor,
        *,
        bias: torch.Tensor | None,
        table: np.ndarray,
        scaling: float,
        causal: bool,
        dropout: float,
    ) -> None:
        threshold, keep = threshold_of(dropout)
        self._compiled, self._table = compiled, table
        self._bias = None if bias is None else bias.to(query.dtype).contiguous()
        self._about: dict[str, Any] = {
            "segments": _Pointer(table.ctypes.data),
            "n_segments": len(table),
            "heads": query.shape[0],
            "kv_heads": key.shape[0],
            "width": query.shape[2],
            "bias": None if self._bias is None else _Pointer(self._bias.data_ptr()),
            "bias_n": 0 if self._bias is None else self._bias.shape[-1],
            "causal": int(causal),
            "threshold": threshold,
            "scaling": scaling,
            "scale": 1 / keep,
        }

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """The mix, ``[S, heads, d]``; ``weights`` is filled."""
        out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
        turned = out.transpose(0, 1)
        self._run(0, weights, q=query, k=key, v=value, out=turned)
        return out

    def backward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        weights: torch.Tensor,
        outer: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Gradients of query, key and value, from that of the mix, ``[S, heads, d]``."""
        gradients = {}
        for name, of in (("dq", query), ("dk", key), ("dv", value)):
            laid = of.new_zeros(of.shape[1], of.shape[0], of.shape[2])
            gradients[name] = laid.transpose(0, 1)
        turned = _side_by_side(outer).transpose(0, 1)
        self._run(1, weights, q=query, k=key, v=value, out=turned, **gradients)
        return tuple(gradients.values())

    def _run(self, backward: int, weights: torch.Tensor, **rows: torch.Tensor) -> None:
        call = _Attention(
            weights=_Pointer(weights.data_ptr()),
            threads=torch.get_num_threads(),
            **self._about,
            **{name: _Rows(t.data_ptr(), t.stride(0), t.stride(1)) for name, t in rows.items()},
        )
        if self._compiled.attend(ctypes.byref(call), backward):
            raise MemoryError("attention found no room for its keys and values")


class LoraCall:
    """What the adapters of one token range add to a product, and the gradients of their factors.

    Args:
        a: ``[R, k]``; b: ``[R, n]``; fp32, scaled.
        table: ``[pieces, 6]`` int64: first and last of a piece's outputs, ranks, and dropped
            entries, the last of each not included.
        drops: places of dropped entries in the input, ascending in each piece.
    """

    def __init__(
        self,
        compiled: ctypes.CDLL,
        a: torch.Tensor,
        b: torch.Tensor,
        table: np.ndarray,
        drops: torch.Tensor,
    ) -> None:
        self._compiled, self._held = compiled, (a, b, table, drops)
        self._about: dict[str, Any] = {
            "a": _Pointer(a.data_ptr()),
            "b": _Pointer(b.data_ptr()),
            "pieces": _Pointer(table.ctypes.data),
            "drops": _Pointer(drops.data_ptr()),
            "n_pieces": len(table),
            "k": a.shape[1],
            "n": b.shape[1],
            "rank": a.shape[0],
        }

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add to ``y [tokens, n]``; the inner states, ``[tokens, R]`` in fp32."""
        z = torch.empty(x.shape[0], self._about["rank"])
        self._run(0, x=x, y=y, z=z)
        return z

    def backward(
        self, x: torch.Tensor, dy: torch.Tensor, z: torch.Tensor, dx: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add to ``dx [tokens, k]`` if there is one; gradients of a and b."""
        a, b, *_ = self._held
        da, db = torch.empty_like(a), torch.empty_like(b)
        of_input = {} if dx is None else {"dx": dx}
        self._run(1, x=x, dy=dy, z=z, da=da, db=db, **of_input)
        return da, db

    def _run(self, backward: int, **tensors: torch.Tensor) -> None:
        call = _Lora(
            tokens=tensors["x"].shape[0],
            threads=torch.get_num_threads(),
            **self._about,
            **{name: _Pointer(tensor.data_ptr()) for name, tensor in tensors.items()},
        )
        if self._compiled.adapt(ctypes.byref(call), backward):
            raise MemoryError("adapters found no room for a block of tokens")


def adapts(compiled: Any, x: torch.Tensor, sizes: Iterable[int]) -> bool:
    """Whether an input and the outputs of its layers have sizes and a layout that the C reads."""
    return (
        compiled is not None
        and x.is_contiguous()
        and x.shape[1] % _TILE == 0
        and all(size % _TILE == 0 for size in sizes)
    )


def attends(compiled: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether heads have a width and a layout that the C reads."""
    return (
        compiled is not None
        and query.shape[2] % _TILE == 0
        and all(t.stride(2) == 1 for t in (query, key, value))
        and len({t.dtype for t in (query, key, value)}) == 1
    )


def _side_by_side(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
