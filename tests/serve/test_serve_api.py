"""The official client against the server, with an engine whose answers are known."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fake_engine import ANSWERS, FakeEngine, encode, make_service, running, wait_until

from veritune.generate.engine import BASE
from veritune.serve.limits import Limits
from veritune.serve.service import Service

QUESTION = [{"role": "user", "content": "Sort a list"}]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def service(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(tmp_path_factory.mktemp("served"), engine)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with (
        running(service) as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as found,
    ):
        yield found


def test_models_are_the_base_and_every_run(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [BASE, "tiny", "other"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("model", [BASE, "tiny", "other"])
def test_a_chat_answer_is_that_of_the_model_named(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == ANSWERS[model]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == model
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(encode(ANSWERS[model])) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [row.choices[0].delta.content or "" for row in chunks if row.choices]
    assert "".join(pieces) == ANSWERS["tiny"]
    assert sum(1 for piece in pieces if piece) > 5
    reasons = [row.choices[0].finish_reason for row in chunks if row.choices]
    assert reasons[-1] == "stop" and not any(reasons[:-1])
    assert chunks[-1].usage is not None and not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == len(encode(ANSWERS["tiny"])) + 1
    assert len({row.id for row in chunks}) == 1


def test_max_tokens_cuts_and_says_so(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_completion_tokens=3
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 3
    assert ANSWERS["tiny"].startswith(answer.choices[0].message.content or "-")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_and_frees_the_engine(
    client: openai.OpenAI,
    engine: FakeEngine,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    before = len(engine.cancelled)
    monkeypatch.setattr(engine, "pause", 0.01)
    answer: Any = client.chat.completions.create(
        model="tiny", messages=QUESTION, stop=[".sort", "🎈"], stream=stream
    )
    if stream:
        text = "".join(row.choices[0].delta.content or "" for row in answer)
    else:
        text = answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
    assert text == ANSWERS["tiny"].partition(".sort")[0]
    wait_until(lambda: len(engine.cancelled) == before + 1 and service.worker.n_inside == 0)


def test_several_answers_have_seeds_of_their_own(client: openai.OpenAI, engine: FakeEngine) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=QUESTION, n=3, seed=7, temperature=0.5, top_p=0.9
    )
    assert [row.index for row in answer.choices] == [0, 1, 2]
    assert [row.seed for row in engine.seen[-3:]] == [7, 8, 9]
    assert {(row.temperature, row.top_p) for row in engine.seen[-3:]} == {(0.5, 0.9)}
    assert len({row.prompt_ids for row in engine.seen[-3:]}) == 1


def test_the_prompt_is_the_chat_template_of_all_messages(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    from fake_engine import TOKENIZER

    parts = [{"type": "text", "text": "And now "}, {"type": "text", "text": "two"}]
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Write code"},
        {"role": "assistant", "content": "x = 1"},
        {"role": "user", "content": parts},
    ]
    client.chat.completions.create(model=BASE, messages=messages)
    text = TOKENIZER.decode(engine.seen[-1].prompt_ids)
    messages[-1]["content"] = "And now two"
    assert text == TOKENIZER.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )


def test_logprobs_name_every_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="other", messages=QUESTION, logprobs=True, top_logprobs=2
    )
    found = answer.choices[0].logprobs
    assert found is not None and found.content is not None
    assert "".join(row.token for row in found.content) == ANSWERS["other"]
    assert {row.logprob for row in found.content} == {-0.5}
    assert {len(row.top_logprobs) for row in found.content} == {2}


def test_completions_go_on_from_text_and_from_tokens(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    answer = client.completions.create(
        model="other", prompt=["def f", "x ="], n=2, max_tokens=64, logprobs=1
    )
    assert [row.text for row in answer.choices] == [ANSWERS["other"]] * 4
    assert [row.prompt_ids for row in engine.seen[-4:]] == [
        *[tuple(encode("def f"))] * 2,
        *[tuple(encode("x ="))] * 2,
    ]
    logprobs = answer.choices[3].logprobs
    assert logprobs is not None and logprobs.tokens is not None
    assert "".join(logprobs.tokens) == ANSWERS["other"]
    assert logprobs.text_offset is not None and logprobs.text_offset[0] == 0
    client.completions.create(model=BASE, prompt=[7, 8, 9], max_tokens=4)
    assert engine.seen[-1].prompt_ids == (7, 8, 9)
    pieces = client.completions.create(model=BASE, prompt="x", stream=True)
    assert "".join(row.choices[0].text for row in pieces) == ANSWERS[BASE]


@pytest.mark.parametrize(
    ("change", "param", "word"),
    [
        ({"model": "nobody"}, "model", "nobody"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, None, "the user"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": float("nan")}, "temperature", "finite"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"n": 17}, "n", "at most 16"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"max_tokens": 2000}, "max_tokens", "at most 1024"),
        ({"max_tokens": 250}, "max_tokens", "256"),
        ({"tools": [{"type": "function"}]}, None, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, None, "response_format"),
        ({"messages": [{"role": "user", "content": "x " * 400}]}, "messages", "context"),
        ({"messages": [{"role": "user", "content": "a \ud800"}]}, "messages", "surrogate"),
        ({"top_logprobs": 3}, None, "logprobs"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, change: dict[str, Any], param: str | None, word: str
) -> None:
    body = json.dumps({"model": "tiny", "messages": QUESTION, **change})
    answer = client._client.post(
        "chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    error = answer.json()["error"]
    assert answer.status_code == (404 if param == "model" else 400), error
    assert error["param"] == param and word in error["message"], error
    assert error["type"] in ("invalid_request_error", "not_found_error") and error["code"]


def test_ignored_settings_stay_ignored(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="other", messages=QUESTION, frequency_penalty=0, user="me", store=False,
        response_format={"type": "text"}, extra_body={"anything": 1},
    )  # fmt: skip
    assert answer.choices[0].message.content == ANSWERS["other"]


def test_a_broken_engine_ends_its_requests_and_the_server_lives(
    client: openai.OpenAI, engine: FakeEngine, service: Service, caplog: Any
) -> None:
    engine.break_next = 1
    with pytest.raises(openai.InternalServerError, match="engine failed"):
        client.chat.completions.create(model="tiny", messages=QUESTION)
    engine.break_next = 1
    with pytest.raises(openai.APIError, match="engine failed"):
        list(client.chat.completions.create(model="tiny", messages=QUESTION, stream=True))
    answer = client.chat.completions.create(model="tiny", messages=QUESTION)
    assert answer.choices[0].message.content == ANSWERS["tiny"]
    wait_until(lambda: service.worker.n_inside == 0)
    assert service.worker.healthy


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    engine = FakeEngine(pause=0.05)
    service = make_service(tmp_path, engine, limits=Limits(requests=2))
    with (
        running(service) as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        streams = [
            client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
            for _ in range(2)
        ]
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="tiny", messages=QUESTION)
        assert caught.value.code == "queue_full"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        text = "".join(row.choices[0].delta.content or "" for row in streams[0])
        assert text == ANSWERS["tiny"]
        # A client that leaves gives its place back.
        streams[1].close()
        wait_until(lambda: service.worker.n_inside == 0)
        client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=1)


def test_leaving_before_the_answer_cancels_it(tmp_path: Path) -> None:
    engine = FakeEngine(pause=0.02)
    service = make_service(tmp_path, engine)
    with running(service) as (url, _):
        impatient = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=0.2)
        with impatient, pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(model="tiny", messages=QUESTION)
        wait_until(lambda: len(engine.cancelled) == 1 and service.worker.n_inside == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_ended(tmp_path: Path, stream: bool) -> None:
    service = make_service(tmp_path, FakeEngine(pause=0.05), limits=Limits(request_seconds=0.3))
    with (
        running(service) as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=2) as client,
    ):
        with pytest.raises(openai.APIError, match=r"no whole answer within 0\.3 s"):
            answer: Any = client.chat.completions.create(
                model="tiny", messages=QUESTION, stream=stream
            )
            list(answer)
        wait_until(lambda: service.worker.n_inside == 0)


def test_many_clients_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    engine = FakeEngine(pause=0.001)
    service = make_service(tmp_path, engine)
    found: list[tuple[str, str]] = []
    with running(service) as (url, _):

        def ask(model: str) -> None:
            with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
                answer = client.chat.completions.create(model=model, messages=QUESTION)
                found.append((model, answer.choices[0].message.content or ""))

        threads = [threading.Thread(target=ask, args=(name,)) for name in [*ANSWERS] * 8]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert sorted(found) == sorted([(name, text) for name, text in ANSWERS.items()] * 8)
