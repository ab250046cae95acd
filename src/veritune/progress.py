"""Progress on stderr: a live bar with rate and time left in a terminal, plain lines elsewhere.

stdout stays free for results.  Text from data or models is escaped before it is shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from veritune.visible_text import escaped

_LINE_EVERY_SECONDS = 15.0


class Task(Protocol):
    """One piece of long work."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Say that ``amount`` more units are done; ``note`` shows the rate or a loss."""


class Reporter(Protocol):
    """Where stages say what they do."""

    def say(self, text: str) -> None:
        """One line of news."""

    def task(self, name: str, total: float | None) -> contextlib.AbstractContextManager[Task]:
        """A bar for the time of a ``with`` block."""


class _SilentTask:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Nothing to show."""


class Silent:
    """A reporter for tests and libraries."""

    def say(self, text: str) -> None:
        """Nothing to say."""

    @contextlib.contextmanager
    def task(self, name: str, total: float | None) -> Iterator[Task]:
        """A task that shows nothing."""
        del name, total
        yield _SilentTask()


class _BarTask:
    def __init__(self, progress: Progress, task_id: int) -> None:
        self._progress, self._task_id = progress, task_id

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._progress.update(self._task_id, advance=amount, note=escaped(note))  # type: ignore[arg-type]


class _LineTask:
    def __init__(self, console: Console, name: str, total: float | None) -> None:
        self._console, self._name, self._total = console, name, total
        self._done, self._started = 0.0, time.monotonic()
        self._last = self._started

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last < _LINE_EVERY_SECONDS:
            return
        self._last = now
        spent = now - self._started
        text = f"{self._name}: {self._done:g}"
        if self._total:
            left = spent / max(self._done, 1e-9) * (self._total - self._done)
            text += f"/{self._total:g}, {_clock(left)} left"
        self._console.print(f"  {escaped(text)} {escaped(note)}", highlight=False)


class TerminalReporter:
    """Rich progress on stderr."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    def say(self, text: str) -> None:
        """Print one line to stderr."""
        self._console.print(escaped(text), highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def task(self, name: str, total: float | None) -> Iterator[Task]:
        """A live bar, or a line every few seconds where there is no terminal."""
        started = time.monotonic()
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("[dim]left"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as progress:
                yield _BarTask(progress, progress.add_task(escaped(name), total=total, note=""))
        else:
            yield _LineTask(self._console, name, total)
        self.say(f"  {name}: done in {_clock(time.monotonic() - started)}")


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s"
