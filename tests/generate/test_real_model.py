"""The bundled model itself: what tiny random models cannot show, such as 30 layers of rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from veritune.config import LoraSection, ModelSection
from veritune.generate.continuous import ContinuousEngine
from veritune.generate.engine import BASE, Request
from veritune.model.bundled import find_gguf
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_gguf() is None, reason="the bundled model is not installed"),
]
QUESTIONS = [
    "Write a function that reverses a string.",
    "def fibonacci(n):\n",
    "Read a file and count its words, line by line, without loading the file as a whole.",
    "Sort a list of tuples by their second item and print it.",
]


def test_base_and_adapted_rows_together_equal_transformers_in_fp32() -> None:
    section = ModelSection(dtype="float32")
    loaded = load_model(section, Placement(torch.device("cpu"), torch.float32))
    model = attach_lora(loaded.model, LoraSection(r=4), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    prompts = [loaded.tokenizer(question)["input_ids"] for question in QUESTIONS]
    systems = [BASE, "default", BASE, "default"]
    engine = ContinuousEngine(model, n_slots=3)
    for index, (prompt, system) in enumerate(zip(prompts, systems, strict=True)):
        engine.add(Request(str(index), tuple(prompt), system, 24, frozenset({2})))
    found: list[list[int]] = [[] for _ in prompts]
    while engine.n_active:
        for emitted in engine.step():
            found[int(emitted.request_id)].append(emitted.token_id)
    for prompt, system, row in zip(prompts, systems, found, strict=True):
        ids = torch.tensor([prompt])
        settings: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": 24,
            "do_sample": False,
            "eos_token_id": [2],
        }
        if system == BASE:
            with model.disable_adapter():
                expected = model.generate(**settings)[0].tolist()
        else:
            expected = model.generate(**settings)[0].tolist()
        assert row == expected[len(prompt) :]
