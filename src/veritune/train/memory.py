"""How much memory training steps need, from shapes alone.

What counts is what a layer keeps for its backward pass.  The sums below follow the layers of
``model.fuse`` entry by entry (``h`` the width of the residual stream, ``i`` that of the
feed-forward part, ``q`` and ``kv`` those of queries and keys); ``docs/speed.md`` compares them
with measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from veritune.train.batches import EncodedPair, Layout
from veritune.train.fixed_rows import budget

_MOMENTS_BYTES = 16
"""Per adapted weight, fp32: itself, its gradient, two moments."""
_LOSS_ROWS = 256
_PROCESS_BYTES = 64 * 2**20
"""Code and workspaces that training on a CPU brings along."""
_RESIDENT_FACTOR = 1.8
"""At most so much more than the tensors a CPU process holds, unless it gives back early."""
_IN_PIECES = 0.4
"""Of activations: what glibc keeps of freed blocks, unless it gives back early (0.33 to 0.54)."""
_JOINED = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "wi_0", "wi_1", *"qkv"})
_PLAIN_FACTOR = 2.0
"""Of layers that are not ours: autograd keeps about twice as much."""


@dataclass(frozen=True)
class Dimensions:
    """A model's sizes.

    Attributes:
        gated: whether the feed-forward part has two products in.
        adapts_feed_forward: whether adapters sit there too.
        encoder_layers: 0 for decoder models.
        dropout: whether the base drops entries of its own in training.
    """

    hidden: int
    inner: int
    queries: int
    keys: int
    heads: int
    layers: int
    encoder_layers: int
    vocabulary: int
    gated: bool
    adapts_feed_forward: bool
    dropout: bool

    @classmethod
    def of(cls, model: Any) -> Dimensions:
        """Read them off a model that has its adapter, on the meta device or another."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = base.config
        adapted = {n.split(".lora_")[0].rpartition(".")[2] for n, _ in model.named_parameters()
                   if ".lora_" in n}  # fmt: skip
        hidden = _size(config, "hidden_size", "d_model")
        heads = _size(config, "num_attention_heads", "num_heads")
        head = _size(config, "d_kv", "head_dim") or hidden // max(1, heads)
        keys = head * (_size(config, "num_key_value_heads") or heads)
        pair = bool(getattr(config, "is_encoder_decoder", False))
        layers = _size(config, "num_hidden_layers", "num_layers")
        return cls(
            hidden=hidden,
            inner=_size(config, "intermediate_size", "d_ff") or 4 * hidden,
            queries=head * heads,
            keys=keys,
            heads=heads,
            layers=(_size(config, "num_decoder_layers") or layers) if pair else layers,
            encoder_layers=layers if pair else 0,
            vocabulary=int(config.vocab_size),
            gated=not pair or bool(getattr(config, "is_gated_act", False)),
            adapts_feed_forward=bool(
                adapted & {"gate_proj", "up_proj", "down_proj", "wi", "wi_0", "wi_1", "wo"}
            ),
            dropout=pair and float(getattr(config, "dropout_rate", 0.0)) > 0,
        )


@dataclass(frozen=True)
class Need:
    """Bytes of one process.

    Attributes:
        weights: frozen ones, and copies of those that fast layers put together; adapter: with
            gradient and moments.
        activations: kept for the backward pass of the largest forward pass.
        passing: the largest of what exists for a moment.
        recomputed: whether activations are computed again, to save memory at a cost in time.
    """

    weights: int
    adapter: int
    activations: int
    passing: int
    recomputed: bool = False

    @property
    def total(self) -> int:
        """All of it, as tensors: what stays resident where freed blocks are given back."""
        return self.weights + self.adapter + self.activations + self.passing

    def gives_back(self, free: int, device: torch.device) -> bool:
        """Whether freed blocks go back to the system at once, which costs a CPU some time."""
        short = self.recomputed or self.total * _RESIDENT_FACTOR > free
        return device.type == "cpu" and short

    def resident(self, free: int, device: torch.device) -> int:
        """What a process will be seen to take, with ``free`` bytes before it starts."""
        if device.type != "cpu" or self.gives_back(free, device):
            return self.total
        return self.total + int(_IN_PIECES * (self.activations + self.passing))


@dataclass(frozen=True)
class Estimator:
    """Foretells the need of settings.

    Attributes:
        frozen, trained: weights; frozen_bytes: of one frozen weight.
        width: bytes of one activation.
        fixed: whether rows are padded to budgets, as recorded steps have them.
        ours: whether the layers are those of ``model.fuse``.
        joined: weights that are copied to lie together while the file they were mapped from
            keeps the originals in memory.
        shared: processes that share a batch.
        process: bytes of code and workspaces that training brings along.
    """

    dimensions: Dimensions
    layout: Layout
    pairs: Sequence[EncodedPair]
    frozen: int
    trained: int
    frozen_bytes: float
    width: int
    fixed: bool
    ours: bool
    joined: int = 0
    shared: int = 1
    process: int = 0

    def need(self, batch_size: int, *, recomputes: bool, longest: int | None = None) -> Need:
        """The need of the largest batch that may occur.

        Args:
            longest: leave out pairs of more tokens.
        """
        pairs = [p for p in self.pairs if longest is None or p.n_tokens <= longest]
        largest = sorted(pairs, key=lambda p: -p.n_tokens)[: -(-batch_size // self.shared)]
        if not largest:
            largest = list(self.pairs[:1])
        each, layers, passing = self._activations(largest)
        if recomputes:
            kept = layers * self.dimensions.hidden * self._tokens(largest) * self.width
            passing += each // max(1, layers)
            each = kept
        return Need(
            weights=int((self.frozen + self.joined) * self.frozen_bytes),
            adapter=self.trained * _MOMENTS_BYTES,
            activations=each,
            passing=passing + self.process,
            recomputed=recomputes,
        )

    def one_more(self, batch_size: int, device: torch.device) -> int:
        """Bytes that one more adapter with its batch adds to a row of several."""
        need = self.need(batch_size, recomputes=False)
        rest = need.activations + need.passing - self.process
        return need.adapter + rest + (int(_IN_PIECES * rest) if device.type == "cpu" else 0)

    def fitting(
        self, batch_size: int, accumulation: int, free: int, *, recomputes: bool
    ) -> list[str]:
        """Settings that would fit in ``free`` bytes, as ``--set`` options; the mildest first."""
        found: list[str] = []
        half = batch_size // 2
        while half >= 1:
            if self.need(half, recomputes=recomputes).total <= free:
                passes = accumulation * -(-batch_size // half)
                found.append(
                    f"--set train.batch_size={half} --set train.accumulation_steps={passes}"
                    " (the same optimizer step)"
                )
                break
            half //= 2
        if not recomputes and self.need(batch_size, recomputes=True).total <= free:
            found.append("--set train.activation_checkpointing=on (slower by about a third)")
        longest = max(pair.n_tokens for pair in self.pairs) // 2
        while len(found) < 2 and longest >= 16:
            size = 1 if not found else batch_size
            need = self.need(size, recomputes=True if not found else recomputes, longest=longest)
            if need.total <= free:
                also = (
                    ""
                    if found
                    else " --set train.batch_size=1 --set train.activation_checkpointing=on"
                )
                found.append(
                    f"--set data.max_pair_tokens={longest}{also} (longer pairs are left out)"
                )
                break
            longest //= 2
        return found

    def _tokens(self, pairs: Sequence[EncodedPair]) -> int:
        source, target = self._row(pairs)
        return source + target

    def _row(self, pairs: Sequence[EncodedPair]) -> tuple[int, int]:
        if not self.fixed:
            return self.layout.row_tokens(pairs)
        if self.layout.kind == "causal":
            return budget(sum(p.n_tokens for p in pairs)), 0
        return (
            budget(sum(len(p.source_ids) for p in pairs)),
            budget(sum(len(p.target_ids) for p in pairs)),
        )

    def _activations(self, pairs: Sequence[EncodedPair]) -> tuple[int, int, int]:
        """(bytes kept, layers, bytes for a moment)."""
        d, packed = self.dimensions, self.layout.padding == "packed" or self.fixed
        source, target = self._row(pairs)
        scored = sum(len(p.target_ids) for p in pairs)
        s = [len(p.source_ids) if d.encoder_layers else p.n_tokens for p in pairs]
        t = [len(p.target_ids) for p in pairs]
        if not packed:
            s, t = [source // len(pairs)] * len(pairs), [target // len(pairs)] * len(pairs)
        if d.encoder_layers == 0:
            values = d.layers * (source * self._decoder_token(packed) + self._weights(s, s, packed))
            tokens, layers = source, d.layers
        else:
            values = d.encoder_layers * (source * self._t5_token() + self._weights(s, s, packed))
            values += d.layers * (
                target * (self._t5_token() + self._cross_token())
                + source * 2 * d.queries
                + self._weights(t, t, packed)
                + self._weights(t, s, packed)
            )
            tokens, layers = source + target, d.encoder_layers + d.layers
        kept = values * self.width * (1.0 if self.ours else _PLAIN_FACTOR)
        backward = tokens * (5 * d.inner + 4 * d.hidden) * self.width // 2
        logits = min(_LOSS_ROWS, scored) * d.vocabulary * self.width
        if not self.ours:
            logits = max(scored, tokens if not packed else 0) * d.vocabulary * (self.width + 8)
        rows = 2 * scored * d.hidden * self.width
        return int(kept), layers, int(max(backward, logits + rows))

    def _decoder_token(self, packed: bool) -> int:
        """Values kept of one token in one layer of a decoder model."""
        d = self.dimensions
        kept = 3 * d.hidden
        if packed:
            # Queries, keys and values as they were projected, then turned; the output.
            kept += 3 * d.queries + 3 * d.keys
        else:
            # The fused kernel wants keys and values repeated, and its output is copied.
            kept += 5 * d.queries
        kept += 2 * d.inner if d.gated else d.inner
        if d.adapts_feed_forward:
            kept += d.hidden + d.inner
        return kept

    @property
    def _keeps_masks(self) -> bool:
        """Whether the base's own dropouts keep their masks; ours draw them again."""
        return self.dimensions.dropout and (self.fixed or not self.ours)

    def _t5_token(self) -> int:
        d = self.dimensions
        kept = 3 * d.hidden + 4 * d.queries + d.inner * (3 if d.gated else 1)
        if self._keeps_masks:
            kept += 2 * d.hidden + d.inner
        if d.adapts_feed_forward:
            # Without dropout the last product reads what the activation keeps anyway.
            kept += d.hidden + (d.inner if d.dropout else 0)
        return kept

    def _cross_token(self) -> int:
        d = self.dimensions
        return 2 * d.hidden + 2 * d.queries + (d.hidden if self._keeps_masks else 0)

    def _weights(self, queries: list[int], keys: list[int], packed: bool) -> int:
        """Attention weights kept of one layer."""
        products = sum(n * m for n, m in zip(queries, keys, strict=True))
        if self.fixed:
            return 0
        if not packed and self.dimensions.encoder_layers == 0:
            return products  # the mask, which is kept as numbers
        copies = 1 if packed else 3 if self.dimensions.dropout else 1
        return self.dimensions.heads * products * copies


def estimator(
    model: Any,
    layout: Layout,
    pairs: Sequence[EncodedPair],
    *,
    dtype: torch.dtype,
    captured: bool,
    ours: bool = True,
    frozen_bytes: float | None = None,
    mapped: bool = False,
    shared: int = 1,
) -> Estimator:
    """The estimator of a model with its adapter, on the meta device or another.

    Args:
        captured: whether its steps will be recorded.
        mapped: whether its weights stay mapped from their file, as they do on a CPU in the
            precision they are stored in.
        frozen_bytes: of one frozen weight where it is not kept in ``dtype``.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    return Estimator(
        dimensions=Dimensions.of(model),
        layout=layout,
        pairs=pairs,
        frozen=every - trained,
        trained=trained,
        frozen_bytes=dtype.itemsize if frozen_bytes is None else frozen_bytes,
        width=dtype.itemsize,
        fixed=captured,
        ours=ours,
        joined=_joined_weights(model) if mapped and ours else 0,
        shared=shared,
        process=0 if captured else _PROCESS_BYTES,
    )


def _joined_weights(model: Any) -> int:
    """Weights of layers over one input, which ``model.fuse`` lays side by side."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
        and name.removesuffix(".weight").removesuffix(".base_layer").rpartition(".")[2] in _JOINED
    )


def _size(config: Any, *names: str) -> int:
    """The first of some configuration entries that is there, 0 if none is."""
    return next((int(v) for name in names if (v := getattr(config, name, None))), 0)
