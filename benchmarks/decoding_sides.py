"""The sides that ``generate.py`` compares: the same prompts and limits, each its own way."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from veritune.generate.continuous import ContinuousEngine
from veritune.generate.engine import BASE, Request

Answers = list[list[int]]
NO_END = 0  # a token that greedy decoding of these prompts does not choose


def by_engine(
    model: Any,
    prompts: Answers,
    new_tokens: int,
    *,
    systems: list[str] | None = None,
    slots: int | None = None,
    ends: Collection[int] = (),
) -> Answers:
    """Veritune's decoder; the packed weights are kept with the model, as between two systems."""
    engine = ContinuousEngine(model, n_slots=slots or len(prompts))
    for index in sorted(range(len(prompts)), key=lambda index: -len(prompts[index])):
        system = systems[index] if systems else BASE
        prompt = tuple(prompts[index])
        engine.add(Request(str(index), prompt, system, new_tokens, frozenset(ends)))
    answers: Answers = [[] for _ in prompts]
    while engine.n_active:
        for emitted in engine.step():
            answers[int(emitted.request_id)].append(emitted.token_id)
    return answers


@torch.inference_mode()
def by_transformers(
    model: Any,
    prompts: Answers,
    new_tokens: int,
    *,
    batch: int | None = None,
    ends: Collection[int] = (),
) -> Answers:
    """HF ``generate`` on padded batches of prompts of like length."""
    answers: Answers = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    size = batch or len(prompts)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        longest = max(len(prompts[index]) for index in chosen)
        encodes = model.config.is_encoder_decoder
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(chosen):
            n = len(prompts[index])
            place = slice(0, n) if encodes else slice(longest - n, longest)
            ids[row, place] = torch.tensor(prompts[index])
            mask[row, place] = 1
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=new_tokens,
            eos_token_id=sorted(ends) or [NO_END],
            pad_token_id=NO_END,
        )
        first = 1 if encodes else longest
        for index, row in zip(chosen, output[:, first:].tolist(), strict=True):
            stop = next((place for place, token in enumerate(row) if token in ends), len(row))
            answers[index] = row[: stop + 1]
    return answers


class ByCTranslate2:
    """The bundled model in CTranslate2's int8, the rest in fp32.

    Raises:
        EnvironmentFault: CTranslate2 is not installed.
    """

    def __init__(self, folder: Path, tokenizer: Any, threads: int) -> None:
        from veritune.export.ctranslate import convert, name_missing_tokens, need_ctranslate2

        package = need_ctranslate2()
        with tempfile.TemporaryDirectory() as target:
            convert(folder, Path(target), precision="int8_float32")
            name_missing_tokens(Path(target), str(tokenizer.pad_token))
            self._generator = package.Generator(target, device="cpu", intra_threads=threads)
        self._tokenizer = tokenizer

    def __call__(self, prompts: Answers, new_tokens: int) -> Answers:
        """Answers of exactly ``new_tokens`` tokens."""
        found = self._generator.generate_batch(
            [self._tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts],
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [row.sequences_ids[0] for row in found]
