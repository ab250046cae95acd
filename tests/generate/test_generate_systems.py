"""Answers: token for token what plain greedy decoding gives; baselines that play fair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from veritune.config import EvaluateSection, LoraSection, ModelSection
from veritune.errors import OutOfMemory
from veritune.generate import decode as decode_module
from veritune.generate.decode import Sampling, decode, decoder_of
from veritune.generate.latency import latency_rounds
from veritune.generate.retrieval import NearestQuestions
from veritune.generate.slots import KeyValues
from veritune.generate.systems import Systems
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.model.prompt import prompt_format
from veritune.progress import Silent
from veritune.rows import Example

CPU = Placement(torch.device("cpu"), torch.float32)
QUESTIONS = [
    "Sort a list of numbers.",
    "Read a file and count its words, line by line, without loading it whole.",
    "Add two numbers.",
    "Reverse a string.",
    "Print hello.",
]


def _examples(split: str = "test", count: int = 5) -> list[Example]:
    return [
        Example(f"{split}-{i}", f"c{i}", split, QUESTIONS[i % 5], "", f"answer_{i}()")  # type: ignore[arg-type]
        for i in range(count)
    ]


def _ready(folder: Path) -> tuple[Any, Any]:
    section = ModelSection(name_or_path=str(folder))
    loaded = load_model(section, CPU)
    model = attach_lora(loaded.model, LoraSection(r=4), seed=0).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model, prompt_format(section, loaded.tokenizer, loaded.kind, join_input=True)


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_qwen2_folder", "tiny_t5_folder"])
def test_batched_answers_equal_single_greedy_ones(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model, wording = _ready(request.getfixturevalue(fixture))
    prompts = [wording.prompt(row) for row in _examples()]
    done: list[int] = []
    answers = decode(
        model,
        wording,
        prompts,
        max_new_tokens=12,
        batch_size=2,
        on_done=lambda answers, tokens: done.append(answers),
    )
    assert sum(done) == len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([wording.encode_prompt(prompt)])
        with torch.no_grad():
            row = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=wording.end_id,
            )[0].tolist()
        new = row[1:] if wording.kind == "seq2seq" else row[ids.shape[1] :]
        stopped = wording.end_id in new
        expected = wording.tokenizer.decode(
            new[: new.index(wording.end_id)] if stopped else new, skip_special_tokens=True
        )
        assert answer.raw == expected
        assert answer.finish_reason == ("stop" if stopped else "length")
        assert answer.n_new_tokens == len(new)


def test_the_baseline_is_the_same_weights_without_the_adapter(tiny_llama_folder: Path) -> None:
    model, wording = _ready(tiny_llama_folder)
    systems = _systems(model, wording)
    base = load_model(ModelSection(name_or_path=str(tiny_llama_folder)), CPU).model
    plain = decode(
        base,
        wording,
        [wording.prompt(row) for row in _examples()],
        max_new_tokens=8,
        batch_size=4,
    )
    assert [a.raw for a in systems.answer("baseline", _examples())] == [a.raw for a in plain]
    adapted = systems.answer("adapted", _examples())
    assert [a.raw for a in adapted] != [a.raw for a in plain]
    assert {a.system for a in adapted} == {"adapted"}


def test_few_shot_shows_training_answers_and_never_the_example_itself(
    tiny_llama_folder: Path,
) -> None:
    model, wording = _ready(tiny_llama_folder)
    train = _examples("train", 12)
    for choose in ("fixed", "bm25"):
        systems = _systems(model, wording, train, few_shot={"k": 3, "choose": choose})
        for row in systems.answer("few_shot", train[:3]):
            index = row.example_id.rpartition("-")[2]
            assert f"answer_{index}()" not in row.prompt
            assert row.prompt.count("answer_") >= 2


def test_shots_that_do_not_fit_the_context_are_left_out(tiny_llama_folder: Path) -> None:
    model, wording = _ready(tiny_llama_folder)
    test = _examples()
    shortest = min(len(wording.encode_prompt(wording.prompt(row))) for row in test)
    # 8 of the context are kept for the answer.
    systems = _systems(model, wording, _examples("train", 12), context_tokens=shortest + 8)
    assert all("answer_" not in row.prompt for row in systems.answer("few_shot", test))


def test_retrieval_copies_the_nearest_answer_but_not_its_own() -> None:
    train = _examples("train", 5)
    found = NearestQuestions(train, join_input=True).nearest(_examples("test"), 1)
    assert [row[0][0].reference for row in found] == [f"answer_{i}()" for i in range(5)]
    own = NearestQuestions(train, join_input=True).nearest(train, 2)
    for example, row in zip(train, own, strict=True):
        assert example not in [item for item, _ in row]
        assert len(row) == 2


def test_the_index_says_nothing_on_its_own_account(caplog: pytest.LogCaptureFixture) -> None:
    # Its library asks for its debug messages; beside another library's handler they show.
    NearestQuestions(_examples("train"), join_input=True)
    assert not caplog.records


def test_a_question_without_a_known_word_still_gets_an_answer() -> None:
    train = _examples("train", 3)
    odd = Example("x", "x", "test", "¿¿ ??", "", "pass")
    [row] = NearestQuestions(train, join_input=True).nearest([odd], 1)
    assert row[0][0].reference == "answer_0()"


def _systems(
    model: Any, wording: Any, train: list[Example] | None = None, **settings: Any
) -> Systems:
    context = settings.pop("context_tokens", None)
    return Systems(
        model,
        wording,
        EvaluateSection.model_validate({"max_new_tokens": 8, "batch_size": 4, **settings}),
        train or _examples("train", 6),
        seed=0,
        extract=lambda raw: raw,
        reporter=Silent(),
        context_tokens=context,
    )


def test_latency_is_measured_in_turn_with_a_fixed_number_of_tokens(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wording = _ready(tiny_llama_folder)
    plain = load_model(ModelSection(name_or_path=str(tiny_llama_folder)), CPU).model
    asked: list[tuple[str, int]] = []
    for name, one in (("plain", plain), ("model", model)):
        generate = one.generate

        def watched(name: str = name, generate: Any = generate, **arguments: Any) -> Any:
            output = generate(**arguments)
            asked.append((name, output.shape[1] - arguments["input_ids"].shape[1]))
            return output

        monkeypatch.setattr(one, "generate", watched)
    prompts = [wording.prompt(row) for row in _examples()[:2]]
    found = latency_rounds(
        {"plain": plain, "model": model}, wording, prompts, rounds=3, new_tokens=5
    )
    assert len(found) == 3 and all(set(row) == {"plain", "model"} for row in found)
    assert all(seconds > 0 for row in found for seconds in row.values())
    # A round that does not count comes first; then who goes first changes.
    order = [name for name, _ in asked]
    assert order == ["plain", "model"] * 2 + ["model", "plain"] + ["plain", "model"]
    assert [tokens for _, tokens in asked] == [2, 2, *[5] * 6]


def test_sampled_answers_depend_on_prompt_seed_and_number_alone(tiny_qwen2_folder: Path) -> None:
    model, wording = _ready(tiny_qwen2_folder)
    prompts = [wording.prompt(row) for row in _examples()]

    def drawn(asked: list[str], batch_size: int, seed: int = 7) -> list[str]:
        sampling = Sampling(n=3, temperature=1.2, top_p=0.95, seed=seed)
        answers = decode(
            model, wording, asked, max_new_tokens=10, batch_size=batch_size, sampling=sampling
        )
        return [answer.raw for answer in answers]

    whole = drawn(prompts, 4)
    assert len(set(whole[:3])) == 3
    assert whole == drawn(prompts, 1)
    assert whole[3:6] == drawn([prompts[1]], 2)
    assert whole != drawn(prompts, 4, seed=8)


def test_models_that_the_own_decoder_does_not_know_answer_through_transformers(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wording = _ready(tiny_llama_folder)
    prompts = [wording.prompt(row) for row in _examples()]
    asked: list[int] = []
    generate = model.generate

    def watched(**arguments: Any) -> Any:
        asked.append(len(arguments["input_ids"]))
        return generate(**arguments)

    monkeypatch.setattr(model, "generate", watched)
    assert decoder_of(model) == "veritune"
    own = decode(model, wording, prompts, max_new_tokens=8, batch_size=2)
    assert asked == []
    monkeypatch.setattr(decode_module, "why_not", lambda model, adapters: "too new")
    assert decoder_of(model) == "transformers (too new)"
    assert decode(model, wording, prompts, max_new_tokens=8, batch_size=2) == own
    assert asked == [2, 2, 1]


def test_a_batch_that_does_not_fit_is_halved(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wording = _ready(tiny_llama_folder)
    prompts = [wording.prompt(row) for row in _examples()]
    expected = decode(model, wording, prompts, max_new_tokens=8, batch_size=4)
    reserve, tried = KeyValues.reserve, []

    def small(self: Any, n_slots: int, capacity: int) -> None:
        tried.append(n_slots)
        if n_slots > room:
            raise MemoryError
        reserve(self, n_slots, capacity)

    monkeypatch.setattr(KeyValues, "reserve", small)
    room = 1
    assert decode(model, wording, prompts, max_new_tokens=8, batch_size=4) == expected
    assert tried == [4, 2, 1]
    room = 0
    with pytest.raises(OutOfMemory, match="one answer"):
        decode(model, wording, prompts, max_new_tokens=8, batch_size=4)
