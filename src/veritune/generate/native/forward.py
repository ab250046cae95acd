"""What hands a decoder's rows to the pass in C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
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


def why_not_native(base: Any) -> str | None:
    """What keeps a decoder from the pass in C, or None."""
    config, dtype = base.config, base.model.embed_tokens.weight.dtype
    attention = base.model.layers[0].self_attn
    if base.device.type != "cpu":
        return f"device {base.device.type}"
    if config.hidden_act not in ("silu", "swish"):
        return f"activation {config.hidden_act}"
    if any(n % TILE for n in (config.hidden_size, config.intermediate_size, attention.head_dim)):
        return f"sizes that are no multiples of {TILE}"
    if library(SOURCE, dtype) is None:
        return "no compiler, or a CPU without AVX-512"
    return None


class NativeForward:
    """Passes of a Llama-like decoder.

    Args:
        layers: with their products and norms, as ``CausalRunner`` holds them.
        adapters: how many systems there are besides the base.
    """

    def __init__(
        self,
        base: Any,
        layers: Sequence[Any],
        head: RowProduct,
        cache: KeyValues,
        n_adapters: int,
    ) -> None:
        config, first = base.config, layers[0]
        self._embed = base.model.embed_tokens.weight
        found = library(SOURCE, self._embed.dtype)
        assert found is not None
        self._run = found.veritune_forward
        self._run.restype = None
        self._held, self._cache, self._systems = Held(), cache, n_adapters + 1
        self._layers = (Layer * len(layers))(*(self._layer(layer) for layer in layers))
        self._sizes = {
            "h": config.hidden_size,
            "qkv": sum(first.qkv.sizes),
            "x": max(config.hidden_size, first.o.linears[0].in_features),
            "inner": config.intermediate_size,
            "z": max(1, *(sum(p.ranks) for layer in layers for p in layer.products)),
        }
        norm = base.model.norm
        self._model = Model(
            layers=self._layers,
            n_layers=len(layers),
            dim=config.hidden_size,
            inner=config.intermediate_size,
            heads=first.q_size // first.width,
            kv_heads=first.kv_heads,
            width=first.width,
            eps=norm.variance_epsilon,
            head_eps=first.q_norm.variance_epsilon if first.q_norm is not None else 0.0,
            scale=first.scale,
            embed=self._held.pointer(self._embed),
            norm_last=self._held.pointer(norm.weight, torch.float32),
            head=self._product(head),
        )
        self._vocabulary = head.sizes[0]
        self._rows = 0
        self._buffers: dict[str, torch.Tensor] = {}
        self._logits = torch.empty(0, self._vocabulary)
        self._every = torch.empty(0, dtype=torch.long)

    def turn_by(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Take the angles ``[positions, d]``; the first half of the sines is negative."""
        self._cos, self._sin = (t.to(torch.float32).contiguous() for t in (cos, sin))

    def step(
        self, tokens: torch.Tensor, positions: torch.Tensor, systems: torch.Tensor
    ) -> torch.Tensor:
        """Logits ``[n, vocabulary]`` in fp32 of the first n slots; the next step overwrites them.

        Args:
            tokens, positions, systems: ``[n]``.
        """
        n = len(tokens)
        if n > len(self._every):
            self._every = torch.arange(n)
            self._logits = torch.empty(n, self._vocabulary)
        logits = self._logits[:n]
        self._pass((tokens, positions, systems, self._every), self._every[:n], logits)
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
        self, rows: Sequence[torch.Tensor], outs: torch.Tensor, logits: torch.Tensor | None
    ) -> None:
        """Run rows, given as tokens, positions, systems and slots; ``outs`` get logits."""
        tokens, positions, systems, slots = rows
        self._make_room(len(tokens))
        caches = self._cache.layers
        batch = Batch(
            tokens=tokens.data_ptr(),
            positions=positions.data_ptr(),
            systems=systems.data_ptr(),
            slots=slots.data_ptr(),
            outs=outs.data_ptr(),
            logits=None if logits is None else logits.data_ptr(),
            caches=(ctypes.c_void_p * len(caches))(*(data.data_ptr() for data in caches)),
            cos=self._cos.data_ptr(),
            sin=self._sin.data_ptr(),
            rows=len(tokens),
            n_out=len(outs),
            cache_slots=self._cache.n_slots,
            window=self._cache.window,
            z_width=self._sizes["z"],
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

    def _layer(self, layer: Any) -> Layer:
        norms = {
            "norm_before": layer.before,
            "norm_between": layer.between,
            "norm_q": layer.q_norm,
            "norm_k": layer.k_norm,
        }
        return Layer(
            qkv=self._product(layer.qkv),
            o=self._product(layer.o),
            gate_up=self._product(layer.gate_up, in_turns=True),
            down=self._product(layer.down),
            **{
                name: None if norm is None else self._held.pointer(norm.weight, torch.float32)
                for name, norm in norms.items()
            },
        )

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
