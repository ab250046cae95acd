"""Answers to many prompts: Veritune's own decoder where it knows the model, else transformers'.

Both take the longest prompts first.  Veritune's gives a slot to the next prompt as soon as an
answer ends; transformers' works through fixed batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from veritune.errors import OutOfMemory
from veritune.generate.by_transformers import answer_batch
from veritune.generate.continuous import ContinuousEngine
from veritune.generate.engine import BASE, Request
from veritune.generate.generated import Generated, Sampling, end_ids, finished
from veritune.generate.runners import base_of, why_not
from veritune.model.prompt import PromptFormat

__all__ = ["Generated", "Sampling", "decode", "decoder_of"]

OWN, TRANSFORMERS = "veritune", "transformers"


def decoder_of(model: Any) -> str:
    """Who answers for a model in its present state, and why if it is not Veritune's decoder."""
    _, fault = _system_of(model)
    return OWN if fault is None else f"{TRANSFORMERS} ({fault})"


@torch.inference_mode()
def decode(
    model: Any,
    prompt_format: PromptFormat,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_done: Callable[[int, int], None] | None = None,
    sampling: Sampling | None = None,
) -> list[Generated]:
    """Answer every prompt greedily; results come in the order of ``prompts``.

    Args:
        model: answers in its present state, its active adapter on or off.
        sampling: draws ``n`` answers a prompt instead; those of one prompt stand together.
        on_done: called with (answers, new tokens) whenever some are ready.

    Raises:
        OutOfMemory: not even one answer fitted.
    """
    copies = 1 if sampling is None else sampling.n
    encoded = [row for row in prompt_format.encode_prompts(list(prompts)) for _ in range(copies)]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)
    work = _Work(model, prompt_format, encoded, max_new_tokens, sampling, on_done)
    system, fault = _system_of(model)
    own = fault is None and all(encoded)
    if sampling is not None and not own:
        torch.manual_seed(sampling.seed)
    while left := [index for index in order if index not in work.results]:
        try:
            if own:
                work.by_engine(left, batch_size, system)
            else:
                work.by_transformers(left, batch_size)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if batch_size == 1:
                raise OutOfMemory(
                    "memory ran out while generating one answer",
                    received=f"{len(encoded[left[0]])} prompt tokens, {max_new_tokens} new tokens",
                    next_step="lower evaluate.max_new_tokens or data.max_pair_tokens",
                ) from error
            batch_size = max(1, batch_size // 2)
    return [work.results[index] for index in range(len(encoded))]


@dataclass
class _Work:
    """Prompts to answer, and the answers so far, by number."""

    model: Any
    format: PromptFormat
    encoded: list[list[int]]
    max_new_tokens: int
    sampling: Sampling | None
    on_done: Callable[[int, int], None] | None
    results: dict[int, Generated] = field(default_factory=dict)

    def by_transformers(self, left: Sequence[int], batch_size: int) -> None:
        """Answer one batch."""
        chosen = left[:batch_size]
        rows = [self.encoded[index] for index in chosen]
        answers = answer_batch(self.model, self.format, rows, self.max_new_tokens, self.sampling)
        self._take(dict(zip(chosen, answers, strict=True)))

    def by_engine(self, left: Sequence[int], n_slots: int, system: str) -> None:
        """Answer all that are left."""
        names = [] if system == BASE else [system]
        engine = ContinuousEngine(
            self.model,
            adapters={name: name for name in names},
            n_slots=min(n_slots, len(left)),
        )
        ends = end_ids(self.format)
        for index in left:
            engine.add(self._request(index, system, ends))
        made: dict[int, list[int]] = {index: [] for index in left}
        while engine.n_active:
            ready: dict[int, Generated] = {}
            for emitted in engine.step():
                index = int(emitted.request_id)
                made[index].append(emitted.token_id)
                if emitted.finish_reason is not None:
                    ready[index] = finished(made.pop(index), ends, self.format.tokenizer)
            if ready:
                self._take(ready)

    def _request(self, index: int, system: str, ends: frozenset[int]) -> Request:
        prompt = tuple(self.encoded[index])
        settings: dict[str, Any] = {}
        if self.sampling is not None:
            name = f"{self.sampling.seed} {index % self.sampling.n} {prompt}"
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
            settings = {
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "seed": seed,
            }
        return Request(str(index), prompt, system, self.max_new_tokens, ends, **settings)

    def _take(self, answers: dict[int, Generated]) -> None:
        self.results.update(answers)
        if self.on_done is not None:
            self.on_done(len(answers), sum(one.n_new_tokens for one in answers.values()))


def _system_of(model: Any) -> tuple[str, str | None]:
    """The adapter that acts in a model, or ``base``; and what keeps our decoder from it."""
    layers = [layer for layer in base_of(model).modules() if hasattr(layer, "base_layer")]
    states = (
        {(layer.disable_adapters, tuple(layer.active_adapters)) for layer in layers}
        if hasattr(model, "peft_config")
        else set()
    )
    if len(states) > 1:
        return BASE, "adapters that differ from layer to layer"
    disabled, active = next(iter(states), (True, ()))
    if disabled or not active:
        return BASE, why_not(model, [])
    if len(active) > 1:
        return BASE, "several adapters at once"
    return active[0], why_not(model, active)
