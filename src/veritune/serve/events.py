"""Server-sent events, and answers whose reader may leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from veritune.serve.faults import LOG, ApiFault

T = TypeVar("T")

DONE = "data: [DONE]\n\n"
HEARTBEAT = ": waiting\n\n"


def event(content: object) -> str:
    """One event with JSON in it."""
    return f"data: {json.dumps(content, allow_nan=False, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """A stream that is told when it is over, however it ends, even before it began.

    Args:
        release: called exactly once, at the end.
    """

    def __init__(self, events: AsyncGenerator[str], release: Callable[[], None]) -> None:
        self._events = events
        self._guarded = _guarded(events)
        self._release = release
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._guarded, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as is wanted."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()
            await self._guarded.aclose()
            await self._events.aclose()


async def _guarded(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The events; a fault becomes the last one, since the status is long sent."""
    try:
        async for item in events:
            yield item
    except ApiFault as fault:
        yield event(fault.body())
    except Exception as error:  # noqa: BLE001
        LOG.error("a stream failed", exc_info=error)
        yield event(ApiFault(500, "the server failed", code="internal_error").body())


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do something for a client, and stop as soon as the client leaves.

    Raises:
        ApiFault: the client has left; nobody will read it.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ApiFault(499, "the client closed the request", code="client_closed")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
