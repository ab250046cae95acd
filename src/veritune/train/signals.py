"""Signals that ask a training to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether a stop was asked for."""

    requested = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask for a stop after the step; a second Ctrl-C stops at once."""
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        del number, frame
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:
        # Not the main thread: whoever owns it handles signals.
        pass
    try:
        yield stop
    finally:
        for kept, handler in previous.items():
            signal.signal(kept, handler)
