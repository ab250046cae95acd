"""Two counts of a training run's arithmetic.

``total_flos`` is the convention the common trainers print: 6 x non-embedding parameters x
source tokens with padding.  ``model_flops`` is what a frozen base needs on real tokens:
4 per weight and token (2 forward, 2 for the gradient of the activations; frozen weights
get none), 6 for trained weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from veritune.train.batches import EncodedPair


@dataclass(frozen=True)
class WeightCounts:
    """Parameters of a model by what they cost.

    Attributes:
        non_embedding: all parameters but ``nn.Embedding`` weights (adapter included).
        per_source_token: multiplied weights every source token meets (decoder models:
            every token); ``per_target_token``: likewise for target tokens of seq2seq.
        source_adapter, target_adapter: likewise, of the trained weights.
    """

    non_embedding: int
    per_source_token: int
    per_target_token: int
    source_adapter: int
    target_adapter: int

    def total_flos(self, padded_source_tokens: int) -> int:
        """The common trainers' count."""
        return 6 * self.non_embedding * padded_source_tokens

    def model_flops(self, source_tokens: int, target_tokens: int) -> int:
        """The count on real tokens; a decoder model's tokens are all source tokens."""
        return source_tokens * (4 * self.per_source_token + 6 * self.source_adapter) + (
            target_tokens * (4 * self.per_target_token + 6 * self.target_adapter)
        )


def count_weights(model: Any) -> WeightCounts:
    """Count a model's weights, PEFT or plain (works on the meta device)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    embedded = {
        id(module.weight) for module in base.modules() if isinstance(module, torch.nn.Embedding)
    }
    parameters = {id(p): p for p in base.parameters()}
    totals = {"source": [0, 0], "target": [0, 0]}
    is_seq2seq = bool(getattr(base.config, "is_encoder_decoder", False))
    head = base.get_output_embeddings()
    for name, module in base.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, torch.nn.Embedding) or not isinstance(weight, torch.Tensor):
            continue
        if hasattr(module, "base_layer"):
            # PEFT's wrapper shows the weight of the layer inside it, which comes by itself.
            continue
        if weight.ndim != 2:
            continue
        side = _side(name, is_seq2seq) if module is not head else _head_side(is_seq2seq)
        totals[side][weight.requires_grad] += weight.numel()
    return WeightCounts(
        non_embedding=sum(p.numel() for key, p in parameters.items() if key not in embedded),
        per_source_token=totals["source"][0],
        per_target_token=totals["target"][0],
        source_adapter=totals["source"][1],
        target_adapter=totals["target"][1],
    )


def real_tokens(pairs: Sequence[EncodedPair], *, is_seq2seq: bool) -> tuple[int, int]:
    """(source, target) tokens without padding; a decoder model counts all as source."""
    source = sum(len(pair.source_ids) for pair in pairs)
    target = sum(len(pair.target_ids) for pair in pairs)
    return (source, target) if is_seq2seq else (source + target, 0)


def _side(name: str, is_seq2seq: bool) -> str:
    if not is_seq2seq or ".encoder." in f".{name}.":
        return "source"
    # Cross-attention reads keys and values from the encoder's tokens.
    cross = "EncDecAttention" in name or "encoder_attn" in name
    parts = name.split(".")
    return "source" if cross and {"k", "v", "k_proj", "v_proj"} & set(parts) else "target"


def _head_side(is_seq2seq: bool) -> str:
    return "target" if is_seq2seq else "source"
