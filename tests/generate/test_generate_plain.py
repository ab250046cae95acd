"""The plain engine: what ``generate`` answers, one token at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from veritune.config import LoraSection, ModelSection
from veritune.errors import DataError, ModelReferenceError
from veritune.generate.engine import BASE, Emitted, Engine, Request
from veritune.generate.plain import PlainEngine
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.model.merged import share_weights

CPU = Placement(torch.device("cpu"), torch.float32)
PROMPTS = [(5, 9, 30, 7), (100, 101), (4, 4, 4, 8, 15, 16, 23, 42)]


def _models(folder: Path) -> dict[str, Any]:
    base = load_model(ModelSection(name_or_path=str(folder)), CPU).model
    plain = share_weights(base)
    adapted = attach_lora(base, LoraSection(r=4, dropout=0.0), seed=0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return {BASE: plain, "mine": adapted.eval()}


@pytest.fixture(scope="module", params=["tiny_llama_folder", "tiny_t5_folder"])
def models(request: pytest.FixtureRequest) -> dict[str, Any]:
    torch.manual_seed(3)
    return _models(request.getfixturevalue(request.param))


def _request(number: int, system: str = "mine", **settings: Any) -> Request:
    return Request(
        **{
            "request_id": f"{system}-{number}",
            "prompt_ids": PROMPTS[number],
            "system": system,
            "max_new_tokens": 12,
            "end_ids": frozenset({3}),
            **settings,
        }
    )


def _drain(engine: PlainEngine) -> dict[str, list[Emitted]]:
    found: dict[str, list[Emitted]] = {}
    while engine.n_active:
        for row in engine.step():
            found.setdefault(row.request_id, []).append(row)
    return found


def _oracle(model: Any, prompt: tuple[int, ...], skip: int) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=3,
            pad_token_id=0,
        )
    return output[0, skip:].tolist()


def test_greedy_answers_are_those_of_generate_for_every_system_at_once(
    models: dict[str, Any],
) -> None:
    engine = PlainEngine(models, context_tokens=None, max_active=4)
    assert isinstance(engine, Engine) and engine.systems == (BASE, "mine")
    for system in models:
        for number in range(3):
            engine.add(_request(number, system))
    assert len(engine.step()) == 4 and engine.n_active <= 6
    rest = _drain(engine)
    answers = {name: [row.token_id for row in rows] for name, rows in rest.items()}
    for system, model in models.items():
        for number, prompt in enumerate(PROMPTS):
            seq2seq = model.config.is_encoder_decoder
            expected = _oracle(model, prompt, 1 if seq2seq else len(prompt))
            # The first four lost one token each to the step above.
            assert expected[-len(answers[f"{system}-{number}"]) :] == answers[f"{system}-{number}"]
    assert all(rows[-1].finish_reason for rows in rest.values())
    assert any(_oracle(models[BASE], p, 1) != _oracle(models["mine"], p, 1) for p in PROMPTS)


def test_log_probabilities_are_those_of_the_whole_row(models: dict[str, Any]) -> None:
    engine = PlainEngine(models, context_tokens=None)
    engine.add(_request(2, n_logprobs=3))
    (rows,) = _drain(engine).values()
    made = [row.token_id for row in rows]
    model, prompt = models["mine"], list(PROMPTS[2])
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        output = model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *made[:-1]]])
        )
        logits = output.logits[0]
    else:
        logits = model(input_ids=torch.tensor([prompt + made[:-1]])).logits[0, len(prompt) - 1 :]
    expected = logits.log_softmax(-1)
    for index, row in enumerate(rows):
        assert row.logprob == pytest.approx(float(expected[index, row.token_id].detach()), abs=1e-4)
        assert row.top_logprobs[0] == (row.token_id, pytest.approx(row.logprob, abs=1e-6))
        assert len(row.top_logprobs) == 3


def test_draws_follow_the_seed_and_top_p_keeps_the_likeliest(models: dict[str, Any]) -> None:
    def answer(**settings: Any) -> list[int]:
        engine = PlainEngine(models, context_tokens=None)
        engine.add(_request(0, **settings))
        return [row.token_id for rows in _drain(engine).values() for row in rows]

    drawn = [answer(temperature=5.0, seed=seed) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert answer(temperature=5.0, seed=0, top_p=1e-6) == answer()
    assert answer(temperature=1e-6, seed=4) == answer()


def test_a_draw_has_the_distribution_asked_for(models: dict[str, Any]) -> None:
    engine = PlainEngine(models, context_tokens=None, max_active=200)
    one = _request(1, max_new_tokens=1, temperature=2.0, top_p=0.5, n_logprobs=500)
    for seed in range(200):
        engine.add(replace(one, request_id=str(seed), seed=seed))
    rows = engine.step()
    logprobs = dict(rows[0].top_logprobs)
    chances = {token: 2.718281828 ** (value / 2.0) for token, value in logprobs.items()}
    total, held, kept = sum(chances.values()), 0.0, []
    for token, chance in sorted(chances.items(), key=lambda item: -item[1]):
        if held >= 0.5 * total:
            break
        kept.append(token)
        held += chance
    assert {row.token_id for row in rows} <= set(kept)
    likeliest = sum(row.token_id == kept[0] for row in rows) / len(rows)
    assert likeliest == pytest.approx(chances[kept[0]] / held, abs=0.1)


def test_an_answer_ends_at_the_context_and_what_cannot_start_is_refused(
    models: dict[str, Any],
) -> None:
    seq2seq = models[BASE].config.is_encoder_decoder
    engine = PlainEngine(models, context_tokens=8)
    engine.add(_request(0, end_ids=frozenset()))
    (rows,) = _drain(engine).values()
    assert len(rows) == (8 if seq2seq else 4) and rows[-1].finish_reason == "length"
    with pytest.raises(DataError, match="no room"):
        engine.add(_request(2))
    with pytest.raises(DataError, match="empty"):
        engine.add(_request(0, prompt_ids=()))
    with pytest.raises(ModelReferenceError, match="base, mine"):
        engine.add(_request(0, "other"))
    engine.add(_request(0))
    engine.cancel("mine-0")
    engine.cancel("unknown")
    assert engine.n_active == 0 and engine.step() == []
