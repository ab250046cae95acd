"""The engine: each answer is what transformers' greedy decoding gives, whoever stands beside."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from veritune.config import LoraSection, ModelSection
from veritune.errors import DataError, EnvironmentFault, ModelReferenceError
from veritune.generate.continuous import ContinuousEngine
from veritune.generate.engine import BASE, Emitted, Engine, Request
from veritune.generate.runners import why_not
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora

CPU = Placement(torch.device("cpu"), torch.float32)
ENDS = frozenset(range(20, 400, 9))
MODELS = ["tiny_llama_folder", "tiny_qwen2_folder", "tiny_t5_folder"]


def _model(folder: Path) -> Any:
    """A random model with two different adapters, neither of which does nothing."""
    model = attach_lora(
        load_model(ModelSection(name_or_path=str(folder)), CPU).model, LoraSection(r=4), seed=0
    )
    attach_lora(model, LoraSection(r=2, target_modules="all-linear"), seed=1, name="second")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def _prompts(lengths: tuple[int, ...] = (1, 5, 9, 30, 3, 17, 2, 12, 8)) -> list[tuple[int, ...]]:
    generator = random.Random(5)
    return [tuple(generator.randrange(4, 400) for _ in range(n)) for n in lengths]


def _requests(systems: tuple[str, ...], **settings: Any) -> list[Request]:
    return [
        Request(str(i), prompt, systems[i % len(systems)], 14, ENDS, **settings)
        for i, prompt in enumerate(_prompts())
    ]


def _answers(engine: Engine, requests: list[Request]) -> dict[str, list[Emitted]]:
    for request in requests:
        engine.add(request)
    found: dict[str, list[Emitted]] = {}
    while engine.n_active:
        for emitted in engine.step():
            found.setdefault(emitted.request_id, []).append(emitted)
    return found


def _tokens(found: dict[str, list[Emitted]]) -> dict[str, list[int]]:
    return {name: [one.token_id for one in row] for name, row in found.items()}


def _by_transformers(model: Any, request: Request) -> list[int]:
    ids = torch.tensor([request.prompt_ids])
    settings: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": request.max_new_tokens,
        "do_sample": False,
        "eos_token_id": sorted(request.end_ids),
    }
    if request.system == BASE:
        with model.disable_adapter():
            row = model.generate(**settings)[0].tolist()
    else:
        model.set_adapter(request.system)
        row = model.generate(**settings)[0].tolist()
    return list(row[1:] if model.config.is_encoder_decoder else row[ids.shape[1] :])


@pytest.mark.parametrize("fixture", MODELS)
def test_mixed_systems_and_lengths_equal_transformers_token_for_token(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model = _model(request.getfixturevalue(fixture))
    # Fewer slots than requests: rows join where others left.
    engine = ContinuousEngine(model, n_slots=4)
    assert isinstance(engine, Engine)
    assert engine.systems == (BASE, "default", "second")
    asked = _requests(engine.systems)
    found = _answers(engine, asked)
    assert _tokens(found) == {one.request_id: _by_transformers(model, one) for one in asked}
    for one in asked:
        row = found[one.request_id]
        assert [token.finish_reason for token in row[:-1]] == [None] * (len(row) - 1)
        stopped = row[-1].token_id in ENDS
        assert row[-1].finish_reason == ("stop" if stopped else "length")
    # They do not all end together, or the test would show little.
    assert len({len(row) for row in found.values()}) > 2


@pytest.mark.parametrize("fixture", MODELS)
def test_recorded_steps_of_rounded_shapes_give_the_same_tokens(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model = _model(request.getfixturevalue(fixture))
    recorded: list[Any] = []
    replayed: list[int] = []

    def graph(step: Any) -> Any:
        recorded.append(step)
        return lambda: (replayed.append(1), step())[1]

    engine = ContinuousEngine(model, n_slots=5, graph=graph)
    asked = _requests(engine.systems)
    assert _tokens(_answers(engine, asked)) == _tokens(
        _answers(ContinuousEngine(model, n_slots=5), asked)
    )
    # Far fewer recordings than shapes that came up, and most steps are replays.
    assert 0 < len(recorded) < len(replayed)


@pytest.mark.parametrize("fixture", MODELS)
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_neighbours_and_arrival_change_nothing(
    fixture: str, temperature: float, request: pytest.FixtureRequest
) -> None:
    model = _model(request.getfixturevalue(fixture))
    engine = ContinuousEngine(model, n_slots=3)
    asked = _requests(engine.systems, temperature=temperature, top_p=0.9, seed=11)
    alone = {
        one.request_id: _tokens(_answers(ContinuousEngine(model, n_slots=1), [one]))[one.request_id]
        for one in asked
    }
    order = random.Random(2).sample(asked, len(asked))
    found: dict[str, list[Emitted]] = {}
    while order or engine.n_active:
        # Late ones join while others are under way.
        for _ in range(min(2, len(order))):
            engine.add(order.pop())
        for emitted in engine.step():
            found.setdefault(emitted.request_id, []).append(emitted)
    assert _tokens(found) == alone


def test_a_cancelled_request_frees_its_slot_and_disturbs_no_one(tiny_llama_folder: Path) -> None:
    model = _model(tiny_llama_folder)
    engine = ContinuousEngine(model, n_slots=2)
    expected = _tokens(_answers(engine, _requests(engine.systems)))
    for one in _requests(engine.systems)[:3]:
        engine.add(one)
    found: dict[str, list[Emitted]] = {}
    engine.step()
    assert engine.n_active == 3
    engine.cancel("0")
    engine.cancel("never heard of")
    assert engine.n_active == 2
    first = {emitted.request_id for emitted in engine.step()}
    assert "2" in first and "0" not in first
    while engine.n_active:
        for emitted in engine.step():
            found.setdefault(emitted.request_id, []).append(emitted)
    assert _tokens(found)["2"] == expected["2"][1:]
    engine.cancel("2")
    assert engine.step() == []


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_t5_folder"])
def test_memory_stays_within_its_bound_and_answers_are_the_same(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model = _model(request.getfixturevalue(fixture))
    free = ContinuousEngine(model, n_slots=4)
    bound = ContinuousEngine(model, n_slots=4, max_cached_tokens=100)
    asked = _requests(free.systems)
    assert _tokens(_answers(bound, asked)) == _tokens(_answers(free, asked))
    for engine, most in ((bound, 100), (free, 10_000)):
        n_slots, own, source = engine._runner.room
        assert 0 < n_slots * (own + source) <= most
    with pytest.raises(DataError, match="leaves no room"):
        bound.add(Request("x", tuple([5] * 100), BASE, 4, ENDS))


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_t5_folder"])
def test_short_requests_after_a_long_one_do_not_pay_for_it(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model = _model(request.getfixturevalue(fixture))
    engine = ContinuousEngine(model, n_slots=4)
    asked = _requests(engine.systems)
    expected = _tokens(_answers(engine, asked))
    long = Request("long", tuple(range(4, 304)), "second", 40, frozenset())
    assert len(_answers(engine, [long])["long"]) == 40
    assert _tokens(_answers(engine, asked)) == expected
    runner: Any = engine._runner
    caches = [runner.source, runner.own] if runner.is_seq2seq else [runner.cache]
    assert all(cache.window <= 64 for cache in caches)


def test_log_probabilities_are_those_of_the_plain_forward_pass(tiny_qwen2_folder: Path) -> None:
    model = _model(tiny_qwen2_folder)
    engine = ContinuousEngine(model, n_slots=4, logprobs=True)
    asked = _requests(engine.systems, n_logprobs=3)
    asked.append(Request("plain", asked[0].prompt_ids, BASE, 3, ENDS))
    found = _answers(engine, asked)
    assert all(token.top_logprobs == () for token in found["plain"])
    assert all(token.logprob is not None for token in found["plain"])
    one = next(one for one in asked if one.system == "second")
    row = found[one.request_id]
    model.set_adapter("second")
    with torch.no_grad():
        ids = torch.tensor([[*one.prompt_ids, *(token.token_id for token in row)]])
        expected = model(input_ids=ids).logits[0, len(one.prompt_ids) - 1 : -1].log_softmax(-1)
    for token, line in zip(row, expected, strict=True):
        values, tokens = line.topk(3)
        assert token.logprob == pytest.approx(float(line[token.token_id]), abs=1e-4)
        assert [t for t, _ in token.top_logprobs] == tokens.tolist()
        assert [v for _, v in token.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)


def test_a_request_that_cannot_be_answered_is_refused(tiny_llama_folder: Path) -> None:
    engine = ContinuousEngine(
        _model(tiny_llama_folder), adapters={"mine": "second"}, context_tokens=8
    )
    assert engine.systems == (BASE, "mine")
    with pytest.raises(ModelReferenceError, match="no such system"):
        engine.add(Request("a", (5,), "second", 4, ENDS))
    for prompt, new, fault in (
        ((), 4, "empty"),
        ((5,) * 8, 4, "leaves no room"),
        ((5, 10_000), 4, "does not know"),
        ((5,), 0, "may have no token"),
    ):
        with pytest.raises(DataError, match=fault):
            engine.add(Request("a", prompt, BASE, new, ENDS))
    # The context ends an answer that asks for more than is left.
    [row] = _answers(engine, [Request("b", (5,) * 6, BASE, 50, frozenset())]).values()
    assert len(row) == 2 and row[-1].finish_reason == "length"
    engine.add(Request("c", (5,), BASE, 4, ENDS))
    with pytest.raises(DataError, match="under way"):
        engine.add(Request("c", (6,), BASE, 4, ENDS))


def test_a_step_that_cannot_be_recorded_runs_as_it_is(tiny_llama_folder: Path) -> None:
    model = _model(tiny_llama_folder)

    def broken(step: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = ContinuousEngine(model, n_slots=4, graph=broken)
    asked = _requests(engine.systems)
    plain = ContinuousEngine(model, n_slots=4)
    assert _tokens(_answers(engine, asked)) == _tokens(_answers(plain, asked))


def test_what_is_not_known_to_be_equal_is_left_to_transformers(tiny_llama_folder: Path) -> None:
    base = load_model(ModelSection(name_or_path=str(tiny_llama_folder)), CPU).model
    dora = attach_lora(base, LoraSection(r=2, use_dora=True), seed=0).eval()
    fault = why_not(dora, ["default"])
    assert fault is not None and "layer" in fault
    with pytest.raises(EnvironmentFault, match="does not know this model"):
        ContinuousEngine(dora)
    base = load_model(ModelSection(name_or_path=str(tiny_llama_folder)), CPU).model
    assert why_not(base, []) is None
    base.config.layer_types = ["sliding_attention", "full_attention"]
    assert why_not(base, []) == "attention in a sliding window"
