"""T5, one token for many rows a step: each slot holds its own keys and its source's."""

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

_LINEARS = frozenset({"q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"})


def why_not_t5(base: Any, adapters: Sequence[str]) -> str | None:
    """What keeps a model from this runner, or None."""
    if base.config.model_type != "t5":
        return f"architecture {base.config.model_type}"
    if base.shared.weight.dtype == torch.float16:
        return "T5 in float16"
    if type(base.lm_head) is not torch.nn.Linear:
        return "an adapted output layer"
    if base.generation_config.decoder_start_token_id is None:
        return "no decoder_start_token_id"
    return foreign_layer(base, _LINEARS, adapters)


class T5Runner:
    """T5 over slots.

    Args:
        base: the model, with PEFT's layers in it if there are adapters.
        adapters: PEFT's names; the first is system 1.
    """

    is_seq2seq = True

    def __init__(self, base: Any, adapters: Sequence[str], n_slots: int) -> None:
        config, frozen = base.config, frozen_weights(base)
        weight = base.shared.weight
        self.dtype, self.device = weight.dtype, weight.device
        self.vocabulary = int(base.lm_head.out_features)
        self._embed, self._own_embed = (
            base.encoder.embed_tokens.weight,
            base.decoder.embed_tokens.weight,
        )
        self._start = int(base.generation_config.decoder_start_token_id)
        self._encoder = [_Block(block, adapters, frozen) for block in base.encoder.block]
        sizes = config.d_model, config.d_ff, config.d_kv
        native = frozen.has_room and why_not_native(weight, config.dense_act_fn, sizes) is None
        # Only one other layout of the decoder's weights is kept beside the model's own.
        frozen.packs = frozen.packs and not native
        self._head = RowProduct([base.lm_head], [], frozen)
        self._head_scale = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
        self._decoder = [_Block(block, adapters, frozen) for block in base.decoder.block]
        self._encoder_norm = base.encoder.final_layer_norm
        self._decoder_norm = base.decoder.final_layer_norm
        self._encoder_bias = base.encoder.block[0].layer[0].SelfAttention.compute_bias
        self._decoder_bias = base.decoder.block[0].layer[0].SelfAttention.compute_bias
        self.slots = Slots(n_slots, self.device)
        shape = len(self._decoder), config.num_heads, config.d_kv, self.dtype, self.device
        self.own, self.source = KeyValues(*shape), KeyValues(*shape)
        self._by_distance = weight.new_empty(config.num_heads, 0)
        self._native = None
        if native:
            decoder = Decoder(
                embed=self._own_embed,
                layers=[block.parts for block in self._decoder],
                last_norm=self._decoder_norm,
                head=self._head,
                heads=config.num_heads,
                kv_heads=config.num_heads,
                width=config.d_kv,
                scale=1.0,
                activation=config.dense_act_fn,
                gated=self._decoder[0].gated,
                last_scale=self._head_scale,
            )
            self._native = NativeForward(decoder, self.own, len(adapters), self.source)

    def needs(self, prompt_tokens: int, new_tokens: int) -> tuple[int, int]:
        """(own tokens, source tokens) that a request's slot must hold."""
        return new_tokens, prompt_tokens

    def first(self, prompt: Sequence[int]) -> tuple[int, int]:
        """The token that the first step reads, and its position."""
        del prompt
        return self._start, 0

    @property
    def room(self) -> tuple[int, int, int]:
        """(slots, own tokens, source tokens) there is memory for."""
        return self.own.n_slots, self.own.capacity, self.source.capacity

    def reserve(self, n_slots: int, own: int, source: int) -> None:
        """Make room for so many slots and tokens; rows under way are kept."""
        if (n_slots, own) != (self.own.n_slots, self.own.capacity):
            self.own.reserve(n_slots, own)
        if (n_slots, source) != (self.source.n_slots, self.source.capacity):
            self.source.reserve(n_slots, source)
        if own:
            last = self._decoder_bias(1, own, device=self.device, past_seen_tokens=own - 1)
            self._by_distance = last[0, :, 0].flip(-1)
            if self._native is not None:
                self._native.bias_by(self._by_distance)

    def move(self, source: int, target: int, own: int, of_source: int) -> None:
        """Copy a row to another slot."""
        self.own.move(source, target, own)
        self.source.move(source, target, of_source)

    def read_prompts(
        self, slots: Sequence[int], prompts: Sequence[Sequence[int]], systems: Sequence[int]
    ) -> None:
        """Encode each prompt and put what the decoder looks at into its slot."""
        rows = prompt_rows(list(zip(slots, prompts, systems, strict=True)), self.device)
        longest = max(rows.lengths)
        if 0 in slots:
            # No older row looks at anything.
            self.source.reach(longest)
        self.source.hold(longest)
        bias = self._encoder_bias(longest, longest, device=self.device)
        h = F.embedding(rows.ids, self._embed)
        for block in self._encoder:
            q, k, v = block.split(block.qkv(normed(h, block.norms[0]), rows.who))
            mixed = attend_within(q, k, v, rows.lengths, scale=1.0, bias=bias, causal=False)
            h = block.feed_forward(block.o(mixed, rows.who).add_(h), rows.who)
        h = normed(h, self._encoder_norm)
        for number, block in enumerate(self._decoder):
            both = block.cross_kv(h, rows.who)
            self.source.write_starts(number, rows.slots, rows.lengths, both)

    def step(self, n: int, span: int, only: int | None) -> torch.Tensor:
        """Logits ``[n, vocabulary]`` of what follows the first ``n`` slots' tokens.

        Args:
            span: tokens of the longest answer, the one now read included.
            only: the one adapter of all rows, 0 for the base, None where they differ.
        """
        slots, own, source = self.slots, self.own, self.source
        positions, span = slots.positions[:n], own.reach(span)
        if self._native is not None:
            return self._native.step(
                slots.tokens[:n], positions, slots.systems[:n], slots.source_lengths[:n]
            )
        of_source = source.window
        who = Who(only, slots.systems[:n])
        places = own.places(positions)
        distance = positions.unsqueeze(1) - torch.arange(span, device=self.device)
        bias = self._by_distance[:, distance.clamp(min=0)].transpose(0, 1).unsqueeze(2)
        bias = bias + hidden_beyond(positions, span)
        other = hidden_beyond(slots.source_lengths[:n] - 1, of_source)
        h = F.embedding(slots.tokens[:n], self._own_embed)
        for number, block in enumerate(self._decoder):
            qkv = block.qkv(normed(h, block.norms[0]), who)
            own.write_next(number, places, qkv[:, block.inner :])
            query = qkv[:, : block.inner].view(n, block.heads, 1, -1)
            h = block.o(attend_next(query, *own.read(number, n, span), bias, 1.0), who).add_(h)
            query = block.cross_q(normed(h, block.norms[1]), who).view(n, block.heads, 1, -1)
            found = source.read(number, n, of_source)
            h = block.cross_o(attend_next(query, *found, other, 1.0), who).add_(h)
            h = block.feed_forward(h, who)
        h = normed(h, self._decoder_norm)
        return self._head(h.mul_(self._head_scale) if self._head_scale != 1.0 else h, who)


class _Block:
    """One block of the encoder or the decoder."""

    def __init__(self, block: Any, adapters: Sequence[str], frozen: Any) -> None:
        own = block.layer[0].SelfAttention
        self.norms = [layer.layer_norm for layer in block.layer]
        self.heads, self.inner = own.n_heads, own.inner_dim
        self.qkv = RowProduct([own.q, own.k, own.v], adapters, frozen)
        self.o = RowProduct([own.o], adapters, frozen)
        if len(block.layer) == 3:
            cross = block.layer[1].EncDecAttention
            self.cross_q = RowProduct([cross.q], adapters, frozen)
            self.cross_kv = RowProduct([cross.k, cross.v], adapters, frozen)
            self.cross_o = RowProduct([cross.o], adapters, frozen)
        dense = block.layer[-1].DenseReluDense
        self.gated = hasattr(dense, "wi_0")
        inner = [dense.wi_0, dense.wi_1] if self.gated else [dense.wi]
        self._wi = RowProduct(inner, adapters, frozen)
        self._wo = RowProduct([dense.wo], adapters, frozen)
        self._act = dense.act

    @property
    def parts(self) -> LayerParts:
        """A block of the decoder as the pass in C takes it."""
        return LayerParts(
            {
                "qkv": self.qkv,
                "o": self.o,
                "cross_q": self.cross_q,
                "cross_o": self.cross_o,
                "gate_up": self._wi,
                "down": self._wo,
            },
            dict(zip(("norm_before", "norm_cross", "norm_between"), self.norms, strict=True)),
        )

    def split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values ``[rows, heads, d]``."""
        return tuple(
            part.view(len(part), self.heads, -1) for part in torch.split(qkv, self.inner, -1)
        )

    def feed_forward(self, h: torch.Tensor, who: Who) -> torch.Tensor:
        """``[rows, d]`` to ``[rows, d]``."""
        inner = self._wi(normed(h, self.norms[-1]), who)
        if self.gated:
            gate, up = torch.split(inner, self._wi.sizes, -1)
            inner = self._act(gate).mul_(up)
        else:
            inner = self._act(inner)
        return self._wo(inner, who).add_(h)
