"""HTTP connections that cannot be held open by doing nothing.

uvicorn waits for ever for the head of a first request and for a client that does not read;
here both are cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class _Clock:
    """Calls something once, some seconds after it was wound."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def wind(self, seconds: float, then: Callable[[], object]) -> None:
        """Start, unless it runs."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(seconds, then)

    def stop(self) -> None:
        """Stop, if it runs."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class GuardedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 with a clock for heads and one for unread answers."""

    head_seconds = 10.0
    stall_seconds = 20.0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._head_clock = _Clock()
        self._stall_clock = _Clock()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first head."""
        super().connection_made(transport)
        self._head_clock.wind(self.head_seconds, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock runs from the first byte of a head to its last."""
        if self.conn.their_state is h11.IDLE:
            self._head_clock.wind(self.head_seconds, self.transport.abort)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_clock.stop()

    def on_response_complete(self) -> None:
        """Between requests uvicorn's own keep-alive clock runs."""
        self._head_clock.stop()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._head_clock.stop()
        self._stall_clock.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read; give it a while."""
        super().pause_writing()
        self._stall_clock.wind(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._stall_clock.stop()
        super().resume_writing()
