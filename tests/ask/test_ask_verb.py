"""``veritune ask`` from the outside: arguments, pipes, JSON, and a real terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from trained_run import make_trained_run

QUESTION = "Write a function that adds."


def ask(run: Path, *arguments: object, stdin: bytes | None = None) -> Any:
    """Run the verb with something on stdin."""
    from typer.testing import CliRunner

    from veritune.cli import app

    return CliRunner().invoke(
        app, ["ask", str(run), *map(str, arguments)], input=stdin if stdin is not None else b""
    )


def test_the_answer_alone_goes_to_stdout(llama_run: Path) -> None:
    limit = ("--max-new-tokens", 12)
    plain, adapted = (ask(llama_run, QUESTION, *more, *limit) for more in (("--base",), ()))
    assert plain.exit_code == adapted.exit_code == 0, plain.stderr
    assert plain.stdout != adapted.stdout and "tokens/s" in plain.stderr
    assert ask(llama_run, "-", *limit, stdin=QUESTION.encode()).stdout == adapted.stdout
    # Without a terminal there is no session, and stdin is the question.
    assert ask(llama_run, *limit, stdin=f"{QUESTION}\n".encode()).stdout == adapted.stdout
    both = ask(llama_run, QUESTION, "--both", *limit).stdout
    assert both == f"# base\n{plain.stdout}# adapted\n{adapted.stdout}"


def test_json_holds_every_answer_and_what_became_of_it(llama_run: Path) -> None:
    outcome = ask(
        llama_run, QUESTION, "--json", "--both", "--n", 2, "--seed", 3, "--max-new-tokens", 9
    )
    assert outcome.exit_code == 0, outcome.stderr
    content = json.loads(outcome.stdout)
    assert content["question"] == QUESTION
    asked = [(row["system"], row["index"]) for row in content["answers"]]
    assert asked == [("base", 0), ("base", 1), ("adapted", 0), ("adapted", 1)]
    for row in content["answers"]:
        assert row["parses"] == (not row["fault"]) and row["ran"] is None
        assert 0 < row["n_new_tokens"] <= 9
    assert content["answers"][0]["text"] != content["answers"][1]["text"]
    again = ask(
        llama_run, QUESTION, "--json", "--both", "--n", 2, "--seed", 3, "--max-new-tokens", 9
    )
    texts = [[row["text"] for row in json.loads(o.stdout)["answers"]] for o in (outcome, again)]
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("sandbox")
def test_run_says_what_became_of_the_program(
    llama_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veritune.score.extract.extract_code", lambda _: "print(6 * 7)")
    outcome = ask(llama_run, QUESTION, "--run", "--json", "--max-new-tokens", 3)
    ran = json.loads(outcome.stdout)["answers"][0]["ran"]
    assert (ran["outcome"], ran["printed"]) == ("pass", "42\n")
    words = ask(llama_run, QUESTION, "--run", "--max-new-tokens", 3)
    assert "42\n" in words.stderr and "runs" in words.stderr
    both = ask(llama_run, QUESTION, "--both", "--run", "--max-new-tokens", 3).stderr
    assert both.index("base:\n42\n") < both.index("adapted:\n42\n")


def test_what_cannot_be_asked_is_refused_in_words(llama_run: Path, tmp_path: Path) -> None:
    def refused(run: Path, *arguments: object, stdin: bytes = b"") -> str:
        outcome = ask(run, *arguments, stdin=stdin)
        assert outcome.exit_code == 2, (outcome.stderr, outcome.stdout)
        assert outcome.stdout == ""
        return str(outcome.stderr)

    assert "run directory" in refused(tmp_path / "nowhere", QUESTION)
    assert "not valid UTF-8" in refused(llama_run, "-", stdin=b"sort\xff")
    assert "not valid UTF-8" in refused(llama_run, "sort\udcff")
    assert "question is empty" in refused(llama_run, "-", stdin=b"\n")
    assert "no room for an answer" in refused(llama_run, "word " * 3000)
    assert "exclude each other" in refused(llama_run, QUESTION, "--base", "--both")
    assert "all the same" in refused(llama_run, QUESTION, "--n", 3, "--temperature", 0)
    untrained = tmp_path / "run"
    shutil.copytree(llama_run, untrained)
    shutil.rmtree(untrained / "adapter")
    assert "veritune train" in refused(untrained, QUESTION)
    fault = ask(untrained, QUESTION, "--json")
    assert fault.exit_code == 2 and json.loads(fault.stdout)["error"] == "RunDirectoryError"


@pytest.mark.slow
def test_an_encoder_decoder_can_be_asked(tmp_path: Path) -> None:
    run = make_trained_run("t5", tmp_path)
    outcome = ask(run, QUESTION, "--both", "--json", "--max-new-tokens", 8)
    rows = json.loads(outcome.stdout)["answers"]
    assert [row["system"] for row in rows] == ["base", "adapted"]
    assert rows[0]["text"] != rows[1]["text"]


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
def test_a_session_in_a_terminal(llama_run: Path, tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    environment = {
        **os.environ,
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "VERITUNE_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    talk = pexpect.spawn(
        sys.executable,
        ["-c", "from veritune.cli import main; main()", "ask", str(llama_run),
         "--max-new-tokens", "8"],
        env=environment, encoding="utf-8", timeout=60, dimensions=(40, 100), cwd=tmp_path,
    )  # fmt: skip

    def expect(pattern: str) -> None:
        assert talk.expect([pattern, pexpect.EOF]) == 0, talk.before

    expect("adapted>")
    talk.send("first\x1b\rsecond\r")
    expect("tokens/s")
    expect("adapted>")
    talk.send("/both\r")
    expect("both>")
    talk.send("again\r")
    expect("base")
    expect("tokens/s")
    expect("tokens/s")
    expect("both>")
    talk.send("/run\r")
    expect("in the sandbox")
    expect("in the sandbox")
    expect("both>")
    talk.send("\x1b[A\x1b[A\r")  # two lines up: the question before /run
    expect("tokens/s")
    expect("tokens/s")
    expect("both>")
    talk.send("/save talk.json\r")
    expect("saved 3 questions")
    expect("both>")
    talk.send("\x03/quit\r")
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0
    exchanges = json.loads((tmp_path / "talk.json").read_text())
    assert [row["question"] for row in exchanges] == ["first\nsecond", "again", "again"]
    history = tmp_path / "cache/ask_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert re.search(r"^\+first\n\+second$", history.read_text(), re.MULTILINE)
