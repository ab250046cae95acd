"""Answers on a terminal, line by line in colour, and in a pipe as plain text.

Whatever a model writes is made visible first: no escape sequence of its own reaches the
terminal.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console

from veritune.ask.asker import Answer
from veritune.sandbox.outcome import Execution
from veritune.show.code_lines import coloured_last
from veritune.visible_text import escaped, visible

_CLEAR_LINE = "\r\x1b[2K"


def one_line(text: object) -> str:
    """The beginning of a text on one line."""
    return " ".join(visible(str(text)[:400]).split())


class PlainScreen:
    """Answers on stdout and nothing else; what there is to say goes to stderr."""

    def __init__(self, *, several: bool = False) -> None:
        self._several = several
        self._news = Console(stderr=True)

    def begin(self, system: str, index: int, of: int) -> None:
        """Head an answer only if there are several."""
        if self._several:
            number = f" {index + 1}" if of > 1 else ""
            sys.stdout.write(f"# {system}{number}\n")

    def piece(self, text: str) -> None:
        """Print it at once."""
        sys.stdout.write(visible(text))
        sys.stdout.flush()

    def end(self, answer: Answer) -> None:
        """End the line; say on stderr whether the program parses."""
        sys.stdout.write("\n")
        sys.stdout.flush()
        self._news.print(_badge(answer), highlight=False, soft_wrap=True)

    def ran(self, execution: Execution) -> None:
        """Say on stderr what happened."""
        self._news.print(_outcome(execution), highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A word on stderr."""
        self._news.print(escaped(text), highlight=False, soft_wrap=True)


class TerminalScreen:
    """Answers in colour: a line is coloured as soon as it is whole.

    Args:
        out: the terminal.
        width: of a line; longer ones are left as they came.
    """

    def __init__(self, out: TextIO | None = None, width: int | None = None) -> None:
        self._out = out or sys.stdout
        self._width = width or shutil.get_terminal_size().columns
        self._console = Console(file=self._out, width=self._width)
        self._lines: list[str] = []
        self._line = ""

    def begin(self, system: str, index: int, of: int) -> None:
        """A rule with the system's name."""
        number = f" {index + 1} of {of}" if of > 1 else ""
        self._console.rule(f"[bold]{escaped(system)}[/]{number}", style="dim", align="left")
        self._lines, self._line = [], ""

    def piece(self, text: str) -> None:
        """Print it at once, and colour each line that is complete."""
        *whole, last = visible(text).split("\n")
        for part in whole:
            self._more(part)
            self._finish_line()
            self._write("\n")
        self._more(last)

    def end(self, answer: Answer) -> None:
        """The badge: does it parse, how fast it came."""
        if self._line:
            self._finish_line()
            self._write("\n")
        self._console.print(_badge(answer), highlight=False, soft_wrap=True)

    def ran(self, execution: Execution) -> None:
        """The program's output and how it ended."""
        self._console.print(_outcome(execution), highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A word to the user."""
        self._console.print(f"[dim]{escaped(text)}[/]", highlight=False)

    def _more(self, text: str) -> None:
        self._write(text)
        self._line += text

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _finish_line(self) -> None:
        self._lines.append(self._line)
        fits = cell_len(self._line) < self._width and "\t" not in self._line
        if fits and not self._console.no_color:
            coloured = coloured_last(self._lines)
            if coloured != self._line:
                self._write(f"{_CLEAR_LINE}{coloured}")
        self._line = ""


def _badge(answer: Answer) -> str:
    parses = (
        f"[red]✗ does not parse[/]: {escaped(one_line(answer.fault))}"
        if answer.fault
        else "[green]✓ parses[/]"
    )
    cut = "" if answer.finish_reason == "stop" else ", cut off"
    rate = answer.n_new_tokens / max(answer.seconds, 1e-9)
    return (
        f"{parses} [dim]· {answer.n_new_tokens} tokens{cut}, first after"
        f" {answer.first_token_seconds:.2f} s, {rate:.0f} tokens/s[/]"
    )


def _outcome(execution: Execution) -> str:
    printed = visible(execution.printed).rstrip()
    shown = f"{escaped(printed)}\n" if printed else ""
    mark = "[green]✓ runs[/]" if execution.outcome == "pass" else f"[red]✗ {execution.outcome}[/]"
    detail = f": {escaped(one_line(execution.detail))}" if execution.detail else ""
    return f"{shown}{mark}{detail} [dim]· {execution.seconds:.2f} s in the sandbox[/]"


def session_head(run: Path) -> None:
    """The first line of a session."""
    Console().print(
        f"[bold]{escaped(one_line(run))}[/] [dim]· Enter sends, Alt-Enter begins a new line,"
        " /help lists the commands[/]",
        highlight=False,
    )
