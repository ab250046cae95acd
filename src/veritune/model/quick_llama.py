"""Llama in plain torch, read straight from a folder: for a first token without a long import.

Importing transformers costs more time than reading 135M weights and a prompt.  The arithmetic
is that of ``transformers.models.llama`` with PEFT's LoRA on it (rotary embedding: Su et al.,
2021; root mean square norm: Zhang & Sennrich, 2019; gated SiLU: Shazeer, 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

Weights = Mapping[str, torch.Tensor]
Cache = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class LlamaShape:
    """What ``config.json`` says of a Llama."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    epsilon: float
    rope_base: float
    tied: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> LlamaShape | None:
        """The shape, or None if it is not a plain Llama."""
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        base = rope.get("rope_theta", config.get("rope_theta"))
        plain = (
            config.get("model_type") == "llama"
            and rope.get("rope_type", "default") == "default"
            and config.get("hidden_act") == "silu"
            and not config.get("attention_bias")
            and not config.get("mlp_bias")
        )
        if not plain or base is None:
            return None
        heads = int(config["num_attention_heads"])
        return cls(
            n_layers=int(config["num_hidden_layers"]),
            n_heads=heads,
            n_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            epsilon=float(config["rms_norm_eps"]),
            rope_base=float(base),
            tied=bool(config.get("tie_word_embeddings")),
        )


@dataclass(frozen=True)
class QuickLora:
    """A LoRA adapter: ``W x + scale · B (A x)``, its matrices as PEFT names them."""

    weights: Weights
    scale: float

    def add_to(self, result: torch.Tensor, name: str, x: torch.Tensor) -> torch.Tensor:
        """``result`` with the adapter's part, where module ``name`` has one."""
        a = self.weights.get(f"base_model.model.{name}.lora_A.weight")
        if a is None:
            return result
        b = self.weights[f"base_model.model.{name}.lora_B.weight"]
        update = F.linear(F.linear(x.to(a.dtype), a), b) * self.scale
        return (result + update).to(result.dtype)


class QuickLlama:
    """A Llama that is called as transformers' own is, one row at a time.

    Args:
        weights: under transformers' names; shared, never written.
    """

    def __init__(self, shape: LlamaShape, weights: Weights, lora: QuickLora | None = None) -> None:
        self._shape = shape
        self._weights = weights
        self._lora = lora
        self.config = SimpleNamespace(is_encoder_decoder=False)

    def parameters(self) -> Iterator[torch.Tensor]:
        """All tensors of the base."""
        return iter(self._weights.values())

    def __call__(self, **arguments: Any) -> Any:
        """Call ``forward``."""
        return self.forward(**arguments)

    def forward(
        self,
        *,
        input_ids: torch.Tensor,
        past_key_values: Cache | None = None,
        logits_to_keep: int = 0,
        use_cache: bool = True,
    ) -> Any:
        """Go on with one row.

        Args:
            input_ids: shape [1, n]; n above 1 only without a cache.
            logits_to_keep: of the last tokens; 0 keeps all.
            use_cache: ignored; there always is one.

        Returns:
            ``logits`` [1, kept, vocabulary] and ``past_key_values``.
        """
        del use_cache
        past = past_key_values or []
        n_before = past[0][0].shape[2] if past else 0
        hidden = F.embedding(input_ids, self._weights["model.embed_tokens.weight"])
        rotation = self._rotation(n_before, input_ids.shape[1], hidden.dtype)
        cache: Cache = []
        for number in range(self._shape.n_layers):
            name = f"model.layers.{number}"
            normed = self._norm(hidden, f"{name}.input_layernorm")
            before = past[number] if past else None
            attended, kept = self._attend(normed, f"{name}.self_attn", rotation, before)
            cache.append(kept)
            hidden = hidden + attended
            normed = self._norm(hidden, f"{name}.post_attention_layernorm")
            gate = F.silu(self._linear(normed, f"{name}.mlp.gate_proj"))
            gated = gate * self._linear(normed, f"{name}.mlp.up_proj")
            hidden = hidden + self._linear(gated, f"{name}.mlp.down_proj")
        hidden = self._norm(hidden, "model.norm")[:, -logits_to_keep:]
        if self._shape.tied:
            logits = F.linear(hidden.contiguous(), self._weights["model.embed_tokens.weight"])
        else:
            logits = self._linear(hidden.contiguous(), "lm_head")
        return SimpleNamespace(logits=logits, past_key_values=cache)

    def _attend(
        self,
        x: torch.Tensor,
        name: str,
        rotation: tuple[torch.Tensor, torch.Tensor],
        before: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        query = _rotated(self._heads(x, f"{name}.q_proj"), *rotation)
        key = _rotated(self._heads(x, f"{name}.k_proj"), *rotation)
        value = self._heads(x, f"{name}.v_proj")
        if before is not None:
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=query.shape[2] > 1, enable_gqa=True
        )
        joined = mixed.transpose(1, 2).reshape(*x.shape[:2], -1)
        return self._linear(joined, f"{name}.o_proj"), (key, value)

    def _heads(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """``[1, n, d]`` to ``[1, heads, n, head_dim]``."""
        projected = self._linear(x, name)
        return projected.view(*x.shape[:2], -1, self._shape.head_dim).transpose(1, 2)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        result = F.linear(x, self._weights[f"{name}.weight"])
        return result if self._lora is None else self._lora.add_to(result, name, x)

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._shape.epsilon)
        return self._weights[f"{name}.weight"] * scaled.to(x.dtype)

    def _rotation(
        self, start: int, n: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the places ``start`` to ``start + n``, shape [n, head_dim]."""
        size = self._shape.head_dim
        exponents = torch.arange(0, size, 2, dtype=torch.int64).float() / size
        frequencies = 1.0 / self._shape.rope_base**exponents
        angles = torch.arange(start, start + n).float()[:, None] * frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine
