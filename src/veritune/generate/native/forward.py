"""What hands a decoder's rows to the pass in C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from veritune.generate.native.structures import TILE, Batch, Held, Layer, Model, Product
from veritune.generate.row_products import RowProduct
from veritune.generate.slots import KeyValues
from veritune.model.native.build import library

SOURCE = Path(__file__).with_name("forward.c")
_ROWS = 256
"""Prompt tokens that pass together."""


_ACTIVATIONS = {"silu": 0, "swish": 0, "relu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2}
"""As ``forward.c`` numbers them."""


def why_not_native(weight: torch.Tensor, activation: str, sizes: Sequence[int]) -> str | None:
    """What keeps a decoder from the pass in C, or None.

    Args:
        weight: one of its weights; sizes: of its states, its feed-forward part and its heads.
    """
    if weight.device.type != "cpu":
        return f"device {weight.device.type}"
    if activation not in _ACTIVATIONS:
        return f"activation {activation}"
    if any(n % TILE for n in sizes):
        return f"sizes that are no multiples of {TILE}"
    if library(SOURCE, weight.dtype) is None:
        return "no compiler, or a CPU without AVX-512"
    return None


@dataclass(frozen=True)
class LayerParts:
    """One decoder layer: its products and norms by their names in ``forward.c``."""

    products: dict[str, RowProduct]
    norms: dict[str, Any]


@dataclass(frozen=True)
class Decoder:
    """What the pass needs to know of a decoder.

    Attributes:
        embed: ``[vocabulary, d]``; head: the output layer; last_norm: before it.
        heads, kv_heads, width: of attention; scale: factor of its scores.
        activation: transformers' name; gated: whether it is multiplied by a second product.
        last_scale: factor of the states before the output layer.
    """

    embed: torch.Tensor
    layers: Sequence[LayerParts]
    last_norm: Any
    head: RowProduct
    heads: int
    kv_heads: int
    width: int
    scale: float
    activation: str
    gated: bool
    last_scale: float = 1.0


class NativeForward:
    """Passes of a decoder.

    Args:
        adapters: how many systems there are besides the base.
        cache: of its own tokens; sources: what an encoder has left, or None.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KeyValues,
        n_adapters: int,
        sources: KeyValues | None = None,
    ) -> None:
        self._embed = decoder.embed
        found = library(SOURCE, self._embed.dtype)
        assert found is not None
        self._run = found.veritune_forward
        self._run.restype = None
        self._held, self._systems = Held(), n_adapters + 1
        self._cache, self._sources = cache, sources
        parts, first = decoder.layers, decoder.layers[0]
        self._layers = (Layer * len(parts))(*(self._layer(one, decoder.gated) for one in parts))
        dim, inner = self._embed.shape[1], first.products["down"].linears[0].in_features
        self._sizes = {
            "h": dim,
            "qkv": sum(first.products["qkv"].sizes),
            "x": max(dim, decoder.heads * decoder.width),
            "inner": inner,
            "z": max(1, *(sum(p.ranks) for one in parts for p in one.products.values())),
        }
        norm, head_norm = decoder.last_norm, first.norms.get("norm_q")
        self._model = Model(
            layers=self._layers,
            n_layers=len(parts),
            dim=dim,
            inner=inner,
            heads=decoder.heads,
            kv_heads=decoder.kv_heads,
            width=decoder.width,
            activation=_ACTIVATIONS[decoder.activation],
            gated=int(decoder.gated),
            eps=norm.variance_epsilon,
            head_eps=head_norm.variance_epsilon if head_norm is not None else 0.0,
            scale=decoder.scale,
            embed=self._held.pointer(self._embed),
            norm_last=self._held.pointer(norm.weight.float() * decoder.last_scale),
            head=self._product(decoder.head),
        )
        self._vocabulary = decoder.head.sizes[0]
        self._rows = 0
        self._buffers: dict[str, torch.Tensor] = {}
        self._logits = torch.empty(0, self._vocabulary)
        self._every = torch.empty(0, dtype=torch.long)
        self._places: dict[str, torch.Tensor] = {}

    def turn_by(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Take the angles ``[positions, d]``; the first half of the sines is negative."""
        self._places = {"cos": cos.float().contiguous(), "sin": sin.float().contiguous()}

    def bias_by(self, distances: torch.Tensor) -> None:
        """Take what is added to scores, ``[heads, distances]``, of distance 0 first."""
        self._places = {"bias": distances.float().contiguous()}

    def step(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        systems: torch.Tensor,
        source_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits ``[n, vocabulary]`` in fp32 of the first n slots; the next step overwrites them.

        Args:
            tokens, positions, systems: ``[n]``; source_lengths: likewise, where there are sources.
        """
        n = len(tokens)
        if n > len(self._every):
            self._every = torch.arange(n)
            self._logits = torch.empty(n, self._vocabulary)
        logits = self._logits[:n]
        rows = tokens, positions, systems, self._every
        self._pass(rows, self._every[:n], logits, source_lengths)
        return logits

    def read(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        systems: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        """Put the keys and values of tokens ``[n]`` into their slots, earlier tokens first."""
        rows = tokens, positions, systems, slots
        for start in range(0, len(tokens), _ROWS):
            part = [one[start : start + _ROWS] for one in rows]
            self._pass(part, self._every[:0], None)

    def _pass(
        self,
        rows: Sequence[torch.Tensor],
        outs: torch.Tensor,
        logits: torch.Tensor | None,
        source_lengths: torch.Tensor | None = None,
    ) -> None:
        """Run rows, given as tokens, positions, systems and slots; ``outs`` get logits."""
        tokens, positions, systems, slots = rows
        self._make_room(len(tokens))
        if self._sources is not None and source_lengths is not None:
            of_sources = {
                "sources": _addresses(self._sources),
                "source_lengths": source_lengths.data_ptr(),
                "source_slots": self._sources.n_slots,
                "source_window": self._sources.window,
            }
        else:
            of_sources = {}
        bias = self._places.get("bias")
        batch = Batch(
            tokens=tokens.data_ptr(),
            positions=positions.data_ptr(),
            systems=systems.data_ptr(),
            slots=slots.data_ptr(),
            outs=outs.data_ptr(),
            logits=None if logits is None else logits.data_ptr(),
            caches=_addresses(self._cache),
            rows=len(tokens),
            n_out=len(outs),
            cache_slots=self._cache.n_slots,
            window=self._cache.window,
            bias_width=0 if bias is None else bias.shape[1],
            z_width=self._sizes["z"],
            **of_sources,
            **{name: tensor.data_ptr() for name, tensor in self._places.items()},
            **{name: buffer.data_ptr() for name, buffer in self._buffers.items()},
        )
        self._model.threads = torch.get_num_threads()
        self._run(ctypes.byref(self._model), ctypes.byref(batch))

    def _make_room(self, rows: int) -> None:
        if rows <= self._rows:
            return
        self._rows = -(-rows // TILE) * TILE
        self._buffers = {
            name: torch.empty(
                self._rows * size,
                dtype=self._embed.dtype if name in ("x", "inner") else torch.float32,
            )
            for name, size in self._sizes.items()
        }

    def _layer(self, parts: LayerParts, gated: bool) -> Layer:
        products = {
            name: self._product(product, in_turns=gated and name == "gate_up")
            for name, product in parts.products.items()
        }
        norms = {
            name: self._held.pointer(norm.weight, torch.float32)
            for name, norm in parts.norms.items()
            if norm is not None
        }
        return Layer(**products, **norms)

    def _product(self, product: RowProduct, *, in_turns: bool = False) -> Product:
        weight, bias = product.strips(in_turns=in_turns)
        held, joint = self._held, product.joint
        made = Product(
            weight=held.pointer(weight),
            bias=held.pointer(bias, torch.float32),
            n=sum(product.sizes),
            k=product.linears[0].in_features,
        )
        if joint is not None:
            ends = torch.tensor(product.ranks, dtype=torch.int32).cumsum(0)
            ranges = torch.zeros(self._systems, 2, dtype=torch.int32)
            ranges[1:, 1] = ends
            ranges[2:, 0] = ends[:-1]
            made.rank = int(ends[-1])
            made.ranks = held.pointer(ranges, torch.int32)
            made.a = held.pointer(joint.a, torch.float32)
            made.b = held.pointer(joint.b.t(), torch.float32)
        return made


def _addresses(cache: KeyValues) -> Any:
    return (ctypes.c_void_p * len(cache.layers))(*(data.data_ptr() for data in cache.layers))
