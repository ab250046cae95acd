"""Llama-like decoders, one token for many rows a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from veritune.generate.native.forward import (
    Decoder,
    LayerParts,
    NativeForward,
    why_not_native,
)
from veritune.generate.prompt_rows import prompt_rows
from veritune.generate.row_products import RowProduct, Who, foreign_layer, frozen_weights
from veritune.generate.slots import (
    KeyValues,
    Slots,
    attend_next,
    attend_within,
    hidden_beyond,
    normed,
)

_KNOWN = frozenset({"llama", "qwen2", "qwen3", "mistral"})
# Those whose angles depend on nothing but the position.
_ROPES = frozenset({"default", "linear", "llama3", "yarn"})
_LINEARS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})

_LONG = 2048
"""Longer prompts are read in torch, whose attention of many queries is quicker."""


def why_not_causal(base: Any, adapters: Sequence[str]) -> str | None:
    """What keeps a model from this runner, or None."""
    config = base.config
    if config.model_type not in _KNOWN:
        return f"architecture {config.model_type}"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (
        config.model_type == "mistral" and config.sliding_window is not None
    ):
        return "attention in a sliding window"
    if base.model.rotary_emb.rope_type not in _ROPES:
        return f"rope of type {base.model.rotary_emb.rope_type}"
    if type(base.lm_head) is not torch.nn.Linear:
        return "an adapted output layer"
    return foreign_layer(base.model, _LINEARS, adapters)


class CausalRunner:
    """A Llama-like model over slots.

    Args:
        base: the model, with PEFT's layers in it if there are adapters.
        adapters: PEFT's names; the first is system 1.
    """

    is_seq2seq = False

    def __init__(self, base: Any, adapters: Sequence[str], n_slots: int) -> None:
        config, frozen = base.config, frozen_weights(base)
        weight = base.model.embed_tokens.weight
        sizes = (
            config.hidden_size,
            config.intermediate_size,
            base.model.layers[0].self_attn.head_dim,
        )
        native = frozen.has_room and why_not_native(weight, config.hidden_act, sizes) is None
        # Only one other layout of the weights is kept beside the model's own.
        frozen.packs = frozen.packs and not native
        self.dtype, self.device = weight.dtype, weight.device
        self.vocabulary = int(base.lm_head.out_features)
        self._rotary = base.model.rotary_emb
        self._embed = weight
        self._norm = base.model.norm
        self._head = RowProduct([base.lm_head], [], frozen)
        self._layers = [_Layer(layer, adapters, frozen) for layer in base.model.layers]
        width = self._layers[0].width
        self.slots = Slots(n_slots, self.device)
        self.cache = KeyValues(
            len(self._layers), config.num_key_value_heads, width, self.dtype, self.device
        )
        self._cos, self._sin = weight.new_empty(0, 1, width), weight.new_empty(0, 1, width)
        self._native = None
        if native:
            first = self._layers[0]
            decoder = Decoder(
                embed=weight,
                layers=[layer.parts for layer in self._layers],
                last_norm=self._norm,
                head=self._head,
                heads=first.q_size // width,
                kv_heads=first.kv_heads,
                width=width,
                scale=first.scale,
                activation=config.hidden_act,
                gated=True,
            )
            self._native = NativeForward(decoder, self.cache, len(adapters))

    def needs(self, prompt_tokens: int, new_tokens: int) -> tuple[int, int]:
        """(own tokens, source tokens) that a request's slot must hold."""
        return prompt_tokens + new_tokens - 1, 0

    def first(self, prompt: Sequence[int]) -> tuple[int, int]:
        """The token that the first step reads, and its position."""
        return prompt[-1], len(prompt) - 1

    @property
    def room(self) -> tuple[int, int, int]:
        """(slots, own tokens, source tokens) there is memory for."""
        return self.cache.n_slots, self.cache.capacity, 0

    def reserve(self, n_slots: int, own: int, source: int) -> None:
        """Make room for so many slots and tokens; rows under way are kept."""
        del source
        self.cache.reserve(n_slots, own)
        self._cos, self._sin = self._angles(own, self.dtype)
        if self._native is not None:
            self._native.turn_by(*self._angles(own, torch.float32))

    def move(self, source: int, target: int, own: int, of_source: int) -> None:
        """Copy a row to another slot."""
        del of_source
        self.cache.move(source, target, own)

    def read_prompts(
        self, slots: Sequence[int], prompts: Sequence[Sequence[int]], systems: Sequence[int]
    ) -> None:
        """Put all but the last token of each prompt into its slot."""
        asked = zip(slots, prompts, systems, strict=True)
        chosen = [(slot, prompt[:-1], system) for slot, prompt, system in asked if prompt[1:]]
        if not chosen:
            return
        rows = prompt_rows(chosen, self.device)
        self.cache.hold(max(rows.lengths))
        if self._native is not None and max(rows.lengths) <= _LONG:
            self._native.read(rows.ids, rows.places, rows.systems, rows.of_slots)
            return
        h = F.embedding(rows.ids, self._embed)
        cos, sin = self._cos[rows.places], self._sin[rows.places]
        for number, layer in enumerate(self._layers):
            qkv = layer.attention_input(h, rows.who, cos, sin)
            self.cache.write_starts(number, rows.slots, rows.lengths, qkv[:, layer.q_size :])
            if number == len(self._layers) - 1:
                return
            q, k, v = layer.split(qkv)
            mixed = attend_within(q, k, v, rows.lengths, scale=layer.scale, causal=True)
            h = layer.rest(h, mixed, rows.who)

    def step(self, n: int, span: int, only: int | None) -> torch.Tensor:
        """Logits ``[n, vocabulary]`` of what follows the first ``n`` slots' tokens.

        Args:
            span: tokens of the longest row, the one now read included.
            only: the one adapter of all rows, 0 for the base, None where they differ.
        """
        slots, cache = self.slots, self.cache
        positions, span = slots.positions[:n], cache.reach(span)
        if self._native is not None:
            return self._native.step(slots.tokens[:n], positions, slots.systems[:n])
        who = Who(only, slots.systems[:n])
        places = cache.places(positions)
        mask = hidden_beyond(positions, span)
        cos, sin = self._cos[positions], self._sin[positions]
        h = F.embedding(slots.tokens[:n], self._embed)
        for number, layer in enumerate(self._layers):
            qkv = layer.attention_input(h, who, cos, sin)
            cache.write_next(number, places, qkv[:, layer.q_size :])
            query = qkv[:, : layer.q_size].view(n, layer.kv_heads, -1, layer.width)
            keys, values = cache.read(number, n, span)
            h = layer.rest(h, attend_next(query, keys, values, mask, layer.scale), who)
        h = normed(h, self._norm)
        return self._head(h, who)

    def _angles(self, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines ``[count, 1, d]``; the first half of the sines is negative."""
        places = torch.arange(count, device=self.device).unsqueeze(0)
        cos, sin = self._rotary(self._embed.new_empty(1, dtype=dtype), position_ids=places)
        half = sin.shape[-1] // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        return cos[0].unsqueeze(1), signed[0].unsqueeze(1)


class _Layer:
    """One decoder layer."""

    def __init__(self, layer: Any, adapters: Sequence[str], frozen: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = RowProduct(
            [attention.q_proj, attention.k_proj, attention.v_proj], adapters, frozen
        )
        self.o = RowProduct([attention.o_proj], adapters, frozen)
        self.gate_up = RowProduct([mlp.gate_proj, mlp.up_proj], adapters, frozen)
        self.down = RowProduct([mlp.down_proj], adapters, frozen)
        self.act = mlp.act_fn
        self.q_norm, self.k_norm = (getattr(attention, n, None) for n in ("q_norm", "k_norm"))
        self.width: int = attention.head_dim
        self.scale: float = attention.scaling
        self.q_size, kv_size, _ = self.qkv.sizes
        self.kv_heads = kv_size // self.width
        self._turned = self.q_size + kv_size

    @property
    def parts(self) -> LayerParts:
        """The layer as the pass in C takes it."""
        return LayerParts(
            {"qkv": self.qkv, "o": self.o, "gate_up": self.gate_up, "down": self.down},
            {
                "norm_before": self.before,
                "norm_between": self.between,
                "norm_q": self.q_norm,
                "norm_k": self.k_norm,
            },
        )

    def attention_input(
        self, h: torch.Tensor, who: Who, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """Queries, keys and values ``[rows, q + k + v]``, turned to their positions."""
        qkv = self.qkv(normed(h, self.before), who)
        both = qkv[:, : self._turned].view(len(qkv), -1, self.width)
        if self.q_norm is not None:
            heads = self.q_size // self.width
            both[:, :heads] = normed(both[:, :heads], self.q_norm)
            both[:, heads:] = normed(both[:, heads:], self.k_norm)
        half = self.width // 2
        swapped = torch.cat((both[..., half:], both[..., :half]), -1)
        both.mul_(cos).add_(swapped.mul_(sin))
        return qkv

    def split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values ``[rows, heads, d]``."""
        q, k, v = torch.split(qkv, self.qkv.sizes, -1)
        return tuple(part.view(len(part), -1, self.width) for part in (q, k, v))

    def rest(self, h: torch.Tensor, mixed: torch.Tensor, who: Who) -> torch.Tensor:
        """What follows attention, ``[rows, d]`` to ``[rows, d]``."""
        h = self.o(mixed, who).add_(h)
        both = self.gate_up(normed(h, self.between), who)
        size = self.gate_up.sizes[0]
        inner = self.act(both[:, :size]).mul_(both[:, size:])
        return self.down(inner, who).add_(h)
