"""Progress goes to stderr, is escaped, and says rate and time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from veritune import progress
from veritune.progress import TerminalReporter


def test_without_a_terminal_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0.0)
    out = io.StringIO()
    reporter = TerminalReporter(Console(file=out, width=200))
    with reporter.task("training", 4) as task:
        task.advance(1, "loss 2.0, 100 tokens/s")
    text = out.getvalue()
    assert "training: 1/4" in text and "left" in text and "100 tokens/s" in text
    assert "training: done in" in text


def test_markup_in_foreign_text_is_shown_not_obeyed() -> None:
    out = io.StringIO()
    reporter = TerminalReporter(Console(file=out, width=200, force_terminal=True))
    reporter.say("file [red]boo[/red] [link=evil]")
    with reporter.task("[bold]name[/bold]", 1) as task:
        task.advance(1, "[blink]note[/blink]")
    assert "[red]boo[/red] [link=evil]" in out.getvalue()
    assert "[bold]name[/bold]" in out.getvalue()
