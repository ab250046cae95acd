"""What the lines of a session do, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from veritune.ask.asker import Answer, Manner
from veritune.ask.conversation import Conversation
from veritune.errors import DataError
from veritune.sandbox.outcome import Execution


class FakeReply:
    def __init__(self, system: str, question: str, *, interrupt: bool) -> None:
        self._text = f"print({question!r})  # {system}"
        self._interrupt = interrupt
        self.answer = Answer(system, 0, self._text, self._text, "", "stop", 1, 2, 0.1, 0.2)

    def __iter__(self) -> Iterator[str]:
        yield self._text[:5]
        if self._interrupt:
            raise KeyboardInterrupt
        yield self._text[5:]


class FakeAsker:
    def ask(self, question: str, system: str, *_: object) -> FakeReply:
        if "long" in question:
            raise DataError("the prompt leaves no room for an answer", received="9 tokens")
        return FakeReply(system, question, interrupt="stop me" in question)


class Log:
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def begin(self, system: str, *_: int) -> None:
        self.seen.append(("begin", system))

    def piece(self, text: str) -> None:
        self.seen.append(("piece", text))

    def end(self, answer: Answer) -> None:
        self.seen.append(("end", answer.system))

    def ran(self, execution: Execution) -> None:
        self.seen.append(("ran", execution.printed))

    def say(self, text: str) -> None:
        self.seen.append(("say", text))

    def take(self) -> list[tuple[str, Any]]:
        seen, self.seen = self.seen, []
        return seen


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def talk(log: Log) -> Conversation:
    def run(code: str) -> Execution:
        return Execution("pass", printed=f"ran {code}")

    return Conversation(FakeAsker(), Manner(8), log, run)  # type: ignore[arg-type]


def test_a_line_is_a_question_to_whoever_was_chosen(talk: Conversation, log: Log) -> None:
    assert talk.label == "adapted" and talk.take("hello")
    assert [kind for kind, _ in log.take()] == ["begin", "piece", "piece", "end"]
    for command, label, asked in (
        ("/base", "base", ["base"]),
        ("/both", "both", ["base", "adapted"]),
        ("/adapted", "adapted", ["adapted"]),
    ):
        assert talk.take(command) and talk.label == label
        log.take()
        assert talk.take("two\nlines")
        assert [name for kind, name in log.take() if kind == "begin"] == asked
    assert [exchange.question for exchange in talk.exchanges][1:] == ["two\nlines"] * 3


def test_run_runs_the_last_answers(talk: Conversation, log: Log) -> None:
    talk.take("/run")
    assert log.take() == [("say", "there is no answer to run yet")]
    talk.take("/both")
    talk.take("x")
    log.take()
    talk.take("/run")
    assert log.take() == [
        ("say", "base:"),
        ("ran", "ran print('x')  # base"),
        ("say", "adapted:"),
        ("ran", "ran print('x')  # adapted"),
    ]


def test_a_session_is_saved_whole_and_never_over_another_file(
    talk: Conversation, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    talk.take("ask ``` this")
    talk.take(f"/save {tmp_path / 'a session.md'}")
    text = (tmp_path / "a session.md").read_text()
    assert "````text\nask ``` this\n````" in text and "### adapted (parses)" in text
    talk.take(f"/save {tmp_path / 's.json'}")
    (exchange,) = json.loads((tmp_path / "s.json").read_text())
    assert exchange["answers"][0]["text"] == "print('ask ``` this')  # adapted"
    log.take()
    talk.take(f"/save {tmp_path / 's.json'}")
    talk.take(f"/save {tmp_path / 'no' / 'such' / 'x.md'}")
    talk.take(f"/save {tmp_path / ('a' * 300)}")
    talk.take("/save ~no-such-user.md")
    talk.take("/save")
    said = [text for _, text in log.take()]
    assert "not overwritten" in said[0] and "saved 1" in said[1] and "too long" in said[2]
    assert "saved 1" in said[3] and "needs a file name" in said[4]


def test_faults_and_interruptions_do_not_end_a_session(talk: Conversation, log: Log) -> None:
    assert talk.take("   ") and log.take() == []
    assert talk.take("a long one")
    assert "leaves no room" in log.take()[0][1] and not talk.exchanges
    talk.take("/both")
    assert talk.take("stop me")
    assert log.take()[-1] == ("say", "stopped") and len(talk.exchanges[0].answers) == 1
    assert talk.take("/nonsense")
    assert "there is no /nonsense" in log.take()[0][1]
    assert talk.take("/help") and "/save FILE" in log.take()[0][1]
    assert not talk.take("/quit")
