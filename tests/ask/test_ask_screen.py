"""What reaches the terminal: colours of ours, and nothing that a model sent."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veritune.ask.asker import Answer
from veritune.sandbox.outcome import Execution
from veritune.show.ask import PlainScreen, TerminalScreen, visible
from veritune.show.code_lines import coloured_last

_OURS = re.compile(r"\x1b\[[0-9;]*m|\r\x1b\[2K")
HOSTILE = "print(1)\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil\r\n\x08\x7f"


def _shown(pieces: list[str], width: int = 60) -> str:
    out = io.StringIO()
    screen = TerminalScreen(out, width)
    for piece in pieces:
        screen.piece(piece)
    screen.end(Answer("adapted", 0, "", "", "bad\x1b[31m", "stop", 1, 2, 0.1, 0.2))
    return out.getvalue()


def test_no_escape_sequence_of_a_model_survives() -> None:
    shown = _shown([HOSTILE[i : i + 3] for i in range(0, len(HOSTILE), 3)])
    rest = _OURS.sub("", shown)
    assert not [c for c in rest if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0]
    assert "\u202e" not in rest and "[U+001B]" in rest and "[U+202E]" in rest


def test_a_finished_line_is_written_again_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = _shown(["def f(x):\n", "    return 'a'\n"])
    first, second, *_ = shown.split("\n")
    assert first.startswith("def f(x):\r\x1b[2K\x1b[") and "return" in second
    assert _OURS.sub("", first.split("\x1b[2K")[1]) == "def f(x):"
    # A line that may have wrapped cannot be taken back, so it stays as it came.
    assert "\x1b[2K" not in _shown(["x = 'a long line of text'\n"], width=20).split("\n")[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[2K" not in _shown(["def f(x):\n"])


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=20), max_size=6))
def test_colours_add_nothing_and_lose_nothing(lines: list[str]) -> None:
    shown = [visible(line) for line in lines]
    for index in range(len(shown)):
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured_last(shown[: index + 1])) == shown[index]


@pytest.mark.parametrize(
    ("lines", "coloured"),
    [
        (["def f(): pass"], True),
        (["Here is a function that adds", "def f(): pass"], False),
        (["Here is a function that adds", "```python", "def f(): pass"], True),
        (["```js", "return 1"], False),
        (["```python", "x = 1", "```", "return to sender"], False),
    ],
)
def test_code_is_told_from_prose(lines: list[str], coloured: bool) -> None:
    assert ("\x1b[" in coloured_last(lines)) == coloured


def test_a_pipe_gets_the_answer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.begin("adapted", 0, 1)
    screen.piece("x = 1\x1b[2J")
    screen.end(Answer("adapted", 0, "", "", "", "length", 1, 2, 0.1, 0.2))
    screen.ran(Execution("fail", "NameError: [bold]x[/]", 0.1, "out\x1b[1m"))
    captured = capsys.readouterr()
    assert captured.out == "x = 1[U+001B][2J\n"
    assert "parses" in captured.err and "cut off" in captured.err
    assert "out[U+001B][1m" in captured.err and "NameError: [bold]x[/]" in captured.err
