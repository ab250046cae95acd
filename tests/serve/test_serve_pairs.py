"""What the page asks for, without a browser: pairs, what may be asked of them, votes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from fake_engine import ANSWERS, FakeEngine, make_service, running

from veritune.generate.engine import BASE
from veritune.serve.service import Service
from veritune.votes import read_votes


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with running(service) as (found, _):
        yield found


def post(url: str, path: str, **body: Any) -> Any:
    return requests.post(f"{url}/page/{path}", json=body, timeout=20)


def ask(url: str, **changes: Any) -> list[dict[str, Any]]:
    body = {"run": "tiny", "question": "Sort a list of numbers", **changes}
    answer = post(url, "pairs", **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines]


def said(events: list[dict[str, Any]], side: str) -> str:
    return "".join(row["text"] for row in events if row.get("side") == side and "text" in row)


def test_a_pair_is_base_left_and_adapted_right_unless_blind(url: str) -> None:
    events = ask(url)
    assert events[0]["names"] == [BASE, "tiny"]
    assert said(events, "left") == ANSWERS[BASE] and said(events, "right") == ANSWERS["tiny"]
    ends = {row["side"]: row for row in events if row["type"] == "end"}
    assert ends["left"]["fault"].startswith("SyntaxError") and ends["right"]["fault"] is None
    assert events[-1] == {"type": "done"}
    refused = post(url, "votes", pair=events[0]["pair"], better="left")
    assert refused.status_code == 409 and "hidden" in refused.json()["error"]["message"]


def test_a_blind_pair_tells_nothing_before_the_vote(url: str, service: Service) -> None:
    events = ask(url, run="other", question="Is it?", blind=True)
    assert events[0]["names"] is None
    assert not any(name in json.dumps(events) for name in ("other", "adapted", BASE))
    pair = events[0]["pair"]
    early = post(url, "nearest", pair=pair)
    assert early.status_code == 409 and "vote first" in early.json()["error"]["message"]
    adapted = "left" if said(events, "left") == ANSWERS["other"] else "right"
    worse = "right" if adapted == "left" else "left"
    reply = post(url, "votes", pair=pair, better=worse).json()
    assert reply["names"] == (["other", BASE] if adapted == "left" else [BASE, "other"])
    assert reply["tally"]["base"] == 1 and reply["tally"]["adapted"] == 0
    assert post(url, "votes", pair=pair, better=adapted).status_code == 409
    (vote,) = read_votes(service.catalog.run_of("other").run.votes)
    assert (vote.choice, vote.adapted_side, vote.question) == ("base", adapted, "Is it?")
    assert vote.adapter_sha256 == "sha-of-other"
    found = post(url, "nearest", pair=pair).json()["nearest"]
    assert found["question"] in ("Sort a list of numbers", "Open <b>a</b> file")


def test_the_nearest_training_question_and_how_near(url: str) -> None:
    pair = ask(url)[0]["pair"]
    found = post(url, "nearest", pair=pair).json()["nearest"]
    assert found["question"] == "Sort a list of numbers"
    assert found["question_likeness"] == 1.0 and 0 < found["answer_likeness"] < 1
    assert found["answer"] == "print(sorted([2, 1]))\n"


def test_sides_of_blind_pairs_are_shuffled(url: str) -> None:
    lefts = {said(ask(url, blind=True), "left") for _ in range(24)}
    assert len(lefts) == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("pairs", {"run": "nobody", "question": "x"}, 404),
        ("pairs", {"run": BASE, "question": ""}, 400),
        ("pairs", {"run": "tiny", "question": "x " * 400}, 400),
        ("pairs", {"run": "tiny", "question": "x", "max_tokens": 10**6}, 400),
        ("pairs", {"run": "tiny", "question": "\ud800"}, 400),
        ("votes", {"pair": "gone", "better": "left"}, 404),
        ("votes", {"pair": "gone", "better": "both"}, 400),
        ("run", {"pair": "gone", "side": "left"}, 404),
        ("run", {"pair": "gone", "side": "left", "stdin": "x" * 30_000}, 400),
        ("nearest", {"pair": "gone"}, 404),
    ],
)
def test_what_the_page_may_not_ask(url: str, path: str, body: dict[str, Any], status: int) -> None:
    answer = post(url, path, **body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_a_vote_that_cannot_be_stored_can_be_cast_again(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    file = service.catalog.run_of("tiny").run.votes
    file.mkdir()
    with running(service) as (url, _):
        pair = ask(url, blind=True)[0]["pair"]
        refused = post(url, "votes", pair=pair, better="tie")
        assert refused.status_code == 503 and "stored" in refused.json()["error"]["message"]
        file.rmdir()
        assert post(url, "votes", pair=pair, better="tie").json()["tally"]["ties"] == 1


def test_an_answer_that_was_cut_off_can_be_neither_run_nor_voted_on(tmp_path: Path) -> None:
    service = make_service(tmp_path, FakeEngine(pause=0.05))
    with running(service) as (url, _):
        body = {"run": "tiny", "question": "x", "blind": True}
        with requests.post(f"{url}/page/pairs", json=body, stream=True, timeout=10) as answer:
            first = next(line for line in answer.iter_lines() if line)
            pair = json.loads(first[6:])["pair"]
        for path, more in [("run", {"side": "left"}), ("votes", {"better": "left"})]:
            refused = post(url, path, pair=pair, **more)
            assert refused.status_code == 409 and "not ended" in refused.json()["error"]["message"]


def test_the_page_carries_a_policy_and_no_scripts_of_others(url: str) -> None:
    page = requests.get(url, timeout=5)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    for name in ("style.css", "app.js", "diff.js", "panel.js", "stream.js"):
        assert f"/static/{name}" in page.text or name != "app.js"
        assert requests.get(f"{url}/static/{name}", timeout=5).status_code == 200
