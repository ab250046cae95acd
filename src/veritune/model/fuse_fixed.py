"""Let a PEFT model compute over rows of fixed length, as a step that is recorded must.

Like ``fuse``, which it extends: only ``forward`` is replaced, tensors and names stay PEFT's.
No layer reads a number back from the device, and all dropout is counted there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from veritune.model import fixed_attention
from veritune.model.attention import packs
from veritune.model.device_dropout import Signals
from veritune.model.fixed_lora import FixedDropout, FixedLoRALinear
from veritune.model.fuse import Fused, Plan, hidden_states
from veritune.model.stacked_lora import Factors, Situation, StackedLoRALinear, Stream


@dataclass
class FixedFused(Fused):
    """A model that computes over fixed rows, one of each adapter.

    Attributes:
        signals: seeds and counters; written before every pass.
        trained: parameters that some replaced layer reads.
    """

    signals: Signals = field(default_factory=lambda: Signals.on(torch.device("cpu"), 1))
    trained: set[int] = field(default_factory=set)
    _attention: tuple[Any, str] | None = None
    _told: list[Any] = field(default_factory=list)

    def attend(self, base: Any) -> None:
        """Switch the base to attention over fixed rows."""
        fixed_attention.register()
        self._attention = (base, base.config._attn_implementation)
        base.set_attn_implementation(fixed_attention.NAME)
        for module in base.modules():
            if getattr(module, "has_relative_attention_bias", False):
                kept = module.__dict__.get("compute_bias")
                module.compute_bias = functools.partial(fixed_attention.bias_by_distance, module)
                self._told.append((module, "compute_bias", kept))

    def tell(self, module: Any, drops: fixed_attention.AttentionDropout) -> None:
        """Give an attention its dropout's draws."""
        module.veritune_dropout = drops
        self._told.append((module, "veritune_dropout", None))

    def restore(self) -> None:
        """Put every layer and the attention back as they were."""
        super().restore()
        for module, name, kept in self._told:
            if kept is None:
                delattr(module, name)
            else:
                setattr(module, name, kept)
        self._told = []
        if self._attention is not None:
            base, name = self._attention
            base.set_attn_implementation(name)
            self._attention = None


def fuse_fixed(model: Any, adapters: Mapping[int, str], device: torch.device) -> FixedFused:
    """Replace all that computes in a PEFT model; see ``why_not_fixed`` for which models.

    Args:
        adapters: PEFT's names of adapters 0 to K - 1.
    """
    base = model.get_base_model()
    signals = Signals.on(device, len(adapters))
    fused = FixedFused(Situation(), signals=signals)
    plan = _FixedPlan.of(base, dict(adapters), fused, signals=signals, device=device)
    plan.carry_out(base)
    fused.attend(base)
    return fused


def why_not_fixed(model: Any, adapters: Mapping[int, str], longest: int) -> str | None:
    """Why a model cannot compute over fixed rows, or None if it can.

    Args:
        longest: tokens of the longest example.
    """
    if not hasattr(model, "peft_config"):
        return "it has no adapter"
    base = model.get_base_model()
    if not packs(base, longest):
        return f"packed rows of {base.config.model_type} models are not known to be exact"
    names = {f".{name}." for name in adapters.values()}
    if any(p.requires_grad and not any(n in path for n in names)
           for path, p in model.named_parameters()):  # fmt: skip
        return "more than plain LoRA is trained"
    fused = FixedFused(Situation())
    plan = _FixedPlan.of(
        base, dict(adapters), fused, signals=fused.signals, device=torch.device("meta")
    )
    covered = plan.covered(base)
    if not all(id(p) in covered for p in model.parameters() if p.requires_grad):
        return "some adapted layers are not plain LoRA on a linear layer"
    if not plan.knows_head(base):
        return "its output layer is not a plain product"
    return None


@dataclass(frozen=True)
class _FixedPlan(Plan):
    """Puts the layers of fixed rows where ``Plan`` puts those of the CPU."""

    signals: Signals
    device: torch.device

    def joined(
        self,
        linears: list[nn.Linear],
        factors: dict[int, list[Factors | None]],
        stream: Stream,
    ) -> StackedLoRALinear:
        """See ``Plan``."""
        return FixedLoRALinear(
            linears, factors, stream, signals=self.signals, adapters=len(self.adapters)
        )

    def norm(self, layer: nn.Module) -> Callable[..., torch.Tensor]:
        """See ``Plan``; torch's own is one kernel each way."""
        return functools.partial(_root_mean_square, layer)

    def dropout(self, layer: nn.Dropout, where: str) -> Callable[..., torch.Tensor]:
        """See ``Plan``."""
        return FixedDropout(layer, self.signals, self.sites[where], self.device)

    def attention(self, layer: Any, where: str) -> None:
        """See ``Plan``."""
        out = next((n for n in ("o", "o_proj") if f"{where}.{n}" in self.sites), None)
        if type(layer).__name__.endswith("Attention") and out is not None:
            assert isinstance(self.fused, FixedFused)
            # Its weights' site lies above those of layers.
            site = self.sites[f"{where}.{out}"] + (1 << 20)
            number = torch.tensor(site, dtype=torch.int32, device=self.device)
            self.fused.tell(layer, fixed_attention.AttentionDropout(self.signals, number))

    def covered(self, base: Any) -> set[int]:
        """Ids of the adapters' parameters that replaced layers would read."""
        found: set[int] = set()
        for _, parent in base.named_modules():
            for child in parent.children():
                if self.fits(child) and hasattr(child, "lora_A"):
                    for name in self.adapters.values():
                        for part in (child.lora_A, child.lora_B):
                            if name in part:
                                found.add(id(part[name].weight))
        return found

    def knows_head(self, base: Any) -> bool:
        """Whether the loss can do the output layer's product."""
        probe = Fused(Situation())
        self.replace_head(probe, base)
        known = base.get_output_embeddings().__dict__.get("forward") is hidden_states
        probe.restore()
        return known


def _root_mean_square(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
