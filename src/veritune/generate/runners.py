"""Which models Veritune decodes by itself, and what computes their next tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from veritune.errors import EnvironmentFault
from veritune.generate.causal_runner import CausalRunner, why_not_causal
from veritune.generate.slots import Slots
from veritune.generate.t5_runner import T5Runner, why_not_t5

_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


class Runner(Protocol):
    """A model over slots."""

    slots: Slots
    is_seq2seq: bool

    @property
    def room(self) -> tuple[int, int, int]:
        """(slots, own tokens, source tokens) there is memory for."""

    def needs(self, prompt_tokens: int, new_tokens: int) -> tuple[int, int]:
        """(own tokens, source tokens) that a request's slot must hold."""

    def first(self, prompt: Sequence[int]) -> tuple[int, int]:
        """The token that the first step reads, and its position."""

    def reserve(self, n_slots: int, own: int, source: int) -> None:
        """Make room for so many slots and tokens."""

    def move(self, source: int, target: int, own: int, of_source: int) -> None:
        """Copy a row to another slot."""

    def read_prompts(
        self, slots: Sequence[int], prompts: Sequence[Sequence[int]], systems: Sequence[int]
    ) -> None:
        """Put prompts into slots."""

    def step(self, n: int, span: int, only: int | None) -> torch.Tensor:
        """Logits ``[n, vocabulary]`` of what follows the first ``n`` slots' tokens."""


def open_runner(model: Any, adapters: Sequence[str], n_slots: int) -> Runner:
    """What computes a model's next tokens.

    Args:
        adapters: PEFT's names; the first is system 1.

    Raises:
        EnvironmentFault: the model is none that Veritune decodes by itself.
    """
    fault = why_not(model, adapters)
    if fault is not None:
        raise EnvironmentFault(
            "Veritune's own decoder does not know this model",
            received=fault,
            accepted="Llama, Qwen2, Qwen3, Mistral or T5 with plain LoRA adapters",
            next_step="decode through transformers",
        )
    base = base_of(model)
    kind = T5Runner if base.config.model_type == "t5" else CausalRunner
    with torch.inference_mode():
        return kind(base, adapters, n_slots)


def why_not(model: Any, adapters: Sequence[str]) -> str | None:
    """What keeps Veritune from decoding a model by itself, or None.

    What is not known to equal transformers is left to transformers.
    """
    base = base_of(model)
    return next(_faults(base), None) or (
        why_not_t5(base, adapters)
        if base.config.model_type == "t5"
        else why_not_causal(base, adapters)
    )


def base_of(model: Any) -> Any:
    """The base model, with PEFT's layers in it if there are any."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def peft_names(model: Any) -> list[str]:
    """PEFT's names of a model's adapters."""
    return list(getattr(model, "peft_config", {}))


def _faults(base: Any) -> Iterator[str]:
    if base.training:
        yield "a model in training mode"
    frozen = [p for name, p in base.named_parameters() if ".lora_" not in name]
    dtypes = {p.dtype for p in frozen}
    if len(dtypes) != 1 or not dtypes <= _DTYPES:
        yield "weights of several or unusual precisions"
    if len({p.device for p in frozen}) != 1 or base.device.type not in ("cpu", "cuda"):
        yield "weights on several or unusual devices"
    if any("modules_to_save" in name for name, _ in base.named_modules()):
        yield "an adapter with whole layers of its own"
    if getattr(base.generation_config, "repetition_penalty", None) not in (None, 1.0):
        yield "a repetition penalty in the model's generation settings"
