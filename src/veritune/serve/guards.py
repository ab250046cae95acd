"""What stands before every route: who may ask, from where, and how much may be sent.

All of it is plain ASGI, so that nothing of a body is read before its sender is known.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from veritune.serve.faults import ApiFault
from veritune.serve.gauges import Gauges
from veritune.serve.limits import Limits

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_OPEN_PATHS = frozenset({"/", "/health"})
_OPEN_FOLDER = "/static/"
_DRAINED_BYTES = 64 << 20
"""Of a body that is too large, so that its sender lives to read why it was refused."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'"
)
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Guards:
    """Checks a request, reads its body within bounds, and counts how it ended.

    Args:
        api_key: what ``Authorization: Bearer`` must carry, None if nothing.
        loopback: the server listens on this machine only, so other host names are an attack
            by DNS rebinding.
    """

    def __init__(
        self, app: ASGIApp, *, limits: Limits, gauges: Gauges, api_key: str | None, loopback: bool
    ) -> None:
        self._app = app
        self._limits = limits
        self._gauges = gauges
        self._api_key = api_key
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = self._counting(scope, send)
        try:
            self._check_sender(scope)
            body = await self._body(scope, receive)
        except ApiFault as fault:
            await fault.response()(scope, receive, answered)
            return
        except _ClientLeft:
            return
        await self._app(scope, _replayed(body, receive), answered)

    # -- who and from where --------------------------------------------------------------

    def _check_sender(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self._loopback and _name_of(host) not in _LOOPBACK_NAMES:
            raise ApiFault(
                403,
                "this server answers to localhost only; the Host header names another",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        # A key cannot be sent by a page of another site, so with one no site can ask.
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign and self._api_key is None:
            raise ApiFault(
                403, "requests of other web sites are not answered", code="origin_not_allowed"
            )
        if self._api_key is None or path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER):
            return
        kind, _, key = headers.get("authorization", "").partition(" ")
        sent = key.strip().encode("utf-8", "surrogateescape")
        right = secrets.compare_digest(sent, self._api_key.encode("utf-8"))
        if kind.lower() != "bearer" or not right:
            raise ApiFault(
                401,
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
            )

    # -- how much ------------------------------------------------------------------------

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit, announced = self._limits.body_bytes, _announced(scope)
        parts: list[bytes] = []
        size = 0
        deadline = time.monotonic() + self._limits.body_seconds
        while True:
            message = await _before(deadline, receive)
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            part = message.get("body", b"")
            size += len(part)
            if size <= limit:
                parts.append(part)
            if not message.get("more_body", False) or size > _DRAINED_BYTES:
                break
        if max(size, announced) > limit:
            raise ApiFault(413, f"the body is larger than {limit:,} bytes", code="body_too_large")
        return b"".join(parts)

    # -- the way back --------------------------------------------------------------------

    def _counting(self, scope: Scope, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                # Only paths with a route, or anybody could fill the memory with labels.
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self._gauges.requests.labels(path, str(message["status"])).inc()
            await send(message)

        return counted


class _ClientLeft(Exception):
    """Nobody is left to answer."""


async def _before(deadline: float, receive: Receive) -> Message:
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await receive()
    except TimeoutError:
        raise ApiFault(408, "the body did not arrive in time", code="body_too_slow") from None


def _replayed(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _announced(scope: Scope) -> int:
    text = Headers(scope=scope).get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _name_of(host: str) -> str:
    """The name in ``NAME``, ``NAME:PORT`` or ``[ADDRESS]:PORT``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
