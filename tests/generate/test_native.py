"""The pass in C: the same answers as torch, in any company, and what happens without a compiler."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from veritune.config import LoraSection
from veritune.generate.continuous import ContinuousEngine
from veritune.generate.engine import BASE, Request
from veritune.generate.native.forward import SOURCE
from veritune.model.lora import attach_lora
from veritune.model.native import build

needs_fp32 = pytest.mark.skipif(
    build.library(SOURCE, torch.float32) is None, reason="no compiler, or no AVX-512"
)
needs_bf16 = pytest.mark.skipif(
    build.library(SOURCE, torch.bfloat16) is None, reason="no compiler, or no AVX512-BF16"
)
# Longer than a block of attention and than the rows that pass together, and one token alone.
LENGTHS = (270, 1, 17, 64, 65)
# Sizes at which whole tiles, strips and groups of heads do not come out even.
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (
        transformers.LlamaConfig,
        {
            "hidden_size": 96,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "vocab_size": 401,
        },
    ),
    "llama-biased": (
        transformers.LlamaConfig,
        {
            "hidden_size": 112,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "head_dim": 48,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2": (transformers.Qwen2Config, {"num_attention_heads": 4, "num_key_value_heads": 4}),
    "qwen3": (
        transformers.Qwen3Config,
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    ),
}
T5_SHAPES: dict[str, dict[str, Any]] = {
    "t5": {"num_heads": 3, "d_kv": 48, "num_decoder_layers": 3},
    "t5-gated": {
        "num_heads": 5,
        "d_kv": 16,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}


def _model(name: str, dtype: torch.dtype = torch.float32, *, adapters: bool = True) -> Any:
    """A random model of three layers, with two adapters that do something."""
    torch.manual_seed(4)
    if name in T5_SHAPES:
        t5 = transformers.T5Config(
            vocab_size=403, d_model=64, d_ff=144, num_layers=2, decoder_start_token_id=0,
            **T5_SHAPES[name],
        )  # fmt: skip
        model: Any = transformers.T5ForConditionalGeneration(t5)
        model.generation_config.decoder_start_token_id = 0
    else:
        kind, sizes = SHAPES[name]
        config = kind(
            intermediate_size=144,
            num_hidden_layers=3,
            max_position_embeddings=512,
            **{"vocab_size": 400, "hidden_size": 64, **sizes},
        )
        of_config: Any = transformers.AutoModelForCausalLM.from_config
        model = of_config(config)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model = model.to(dtype)
    if adapters:
        model = attach_lora(model, LoraSection(r=4, target_modules="attention"), seed=0)
        attach_lora(model, LoraSection(r=3, target_modules="all-linear"), seed=1, name="second")
        for name_, parameter in model.named_parameters():
            if "lora_" in name_:
                parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def _lines(model: Any, prompt: tuple[int, ...], made: list[int]) -> torch.Tensor:
    """Log-probabilities of every token made, by the model's own forward pass."""
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            logits = model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *made[:-1]]])
            ).logits[0]
        else:
            ids = torch.tensor([[*prompt, *made]])
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1)


def _requests(systems: tuple[str, ...], new_tokens: int = 4) -> list[Request]:
    generator = torch.Generator().manual_seed(8)
    return [
        Request(
            str(i),
            tuple(torch.randint(4, 400, (n,), generator=generator).tolist()),
            systems[i % len(systems)],
            new_tokens,
            frozenset(),
            n_logprobs=5,
        )
        for i, n in enumerate(LENGTHS)
    ]


def _found(engine: ContinuousEngine, asked: list[Request]) -> dict[str, list[Any]]:
    for request in asked:
        engine.add(request)
    found: dict[str, list[Any]] = {}
    while engine.n_active:
        for emitted in engine.step():
            found.setdefault(emitted.request_id, []).append(emitted)
    return found


def _is_native(engine: ContinuousEngine) -> bool:
    runner: Any = engine._runner
    return runner._native is not None


@needs_fp32
@pytest.mark.parametrize(
    ("name", "threads"),
    [*((name, 1) for name in (*SHAPES, *T5_SHAPES)), ("llama", 2), ("t5", 2)],
)
def test_every_shape_gives_the_log_probabilities_of_the_model_itself(
    name: str, threads: int
) -> None:
    model = _model(name)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = ContinuousEngine(model, n_slots=4)
        assert _is_native(engine)
        asked = _requests(engine.systems)
        found = _found(engine, asked)
    finally:
        torch.set_num_threads(before)
    for one in asked:
        made = [token.token_id for token in found[one.request_id]]
        if one.system == BASE:
            with model.disable_adapter():
                lines = _lines(model, one.prompt_ids, made)
        else:
            model.set_adapter(one.system)
            lines = _lines(model, one.prompt_ids, made)
        assert made == lines.argmax(-1).tolist()
        for token, line in zip(found[one.request_id], lines, strict=True):
            values, tokens = line.topk(5)
            assert [place for place, _ in token.top_logprobs] == tokens.tolist()
            assert [p for _, p in token.top_logprobs] == pytest.approx(values.tolist(), abs=1e-3)


@needs_bf16
def test_in_bf16_a_row_is_the_same_to_the_last_bit_whoever_stands_beside() -> None:
    # T5's sources are read in torch, whose products of more rows may differ in the last bit.
    model = _model("llama", torch.bfloat16)
    together = ContinuousEngine(model, n_slots=5)
    assert _is_native(together)
    asked = _requests(together.systems)
    found = _found(together, asked)
    for one in asked:
        assert (
            _found(ContinuousEngine(model, n_slots=1), [one])[one.request_id]
            == (found[one.request_id])
        )


@needs_bf16
@pytest.mark.parametrize("name", ["qwen3", "t5-gated"])
def test_in_bf16_it_is_no_farther_from_fp32_than_transformers(name: str) -> None:
    model = _model(name, torch.bfloat16, adapters=False)
    exact = copy.deepcopy(model).float()
    asked = _requests((BASE,), new_tokens=1)[0]
    engine = ContinuousEngine(model, n_slots=1)
    assert _is_native(engine)
    vocabulary = int(model.config.vocab_size)
    asked = dataclasses.replace(asked, n_logprobs=vocabulary)
    [[token]] = _found(engine, [asked]).values()
    truth, theirs = (_lines(each, asked.prompt_ids, [0])[0] for each in (exact, model))
    ours = torch.empty(vocabulary)
    for place, logprob in token.top_logprobs:
        ours[place] = logprob
    error, their_error = ((x - truth).abs().mean() for x in (ours, theirs))
    assert 0 < error < their_error


@pytest.mark.parametrize("compiler", [None, "/bin/false"])
def test_without_a_working_compiler_torch_answers_the_same(
    compiler: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = _model("llama")
    engine = ContinuousEngine(model, n_slots=4)
    asked = _requests(engine.systems)
    expected = _found(engine, asked)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_compiler", lambda: compiler)
    build.library.cache_clear()
    try:
        other = ContinuousEngine(_model("llama"), n_slots=4)
        assert not _is_native(other)
        found = _found(other, asked)
    finally:
        build.library.cache_clear()
    for name, row in expected.items():
        assert [one.token_id for one in found[name]] == [one.token_id for one in row]


@needs_fp32
def test_a_prompt_too_long_for_it_is_read_in_torch_and_continued_in_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model("llama")
    engine = ContinuousEngine(model, n_slots=4)
    asked = _requests(engine.systems)
    expected = _found(engine, asked)
    monkeypatch.setattr("veritune.generate.causal_runner._LONG", 20)
    found = _found(ContinuousEngine(model, n_slots=4), asked)
    for name, row in expected.items():
        assert [one.token_id for one in found[name]] == [one.token_id for one in row]


@needs_fp32
def test_changed_weights_are_seen_by_the_next_engine() -> None:
    model = _model("qwen2", adapters=False)
    asked = _requests((BASE,))
    first = _found(ContinuousEngine(model, n_slots=4), asked)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    second = _found(ContinuousEngine(model, n_slots=4), asked)
    assert first != second
    assert second == _found(ContinuousEngine(copy.deepcopy(model), n_slots=4), asked)
