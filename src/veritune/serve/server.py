"""uvicorn around the application: a socket bound early, bounded connections, a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from veritune.errors import EnvironmentFault, InputFault
from veritune.serve.app import create_app
from veritune.serve.connections import GuardedConnection
from veritune.serve.faults import shutting_down
from veritune.serve.limits import Limits
from veritune.serve.service import Service

_KEEP_ALIVE_SECONDS = 10
_FLUSH_SECONDS = 3
"""After the grace time, for last events to reach their readers."""


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, before anything slow begins.

    Raises:
        EnvironmentFault: the port is in use, or not for this user.
        InputFault: the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _no_address(host, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            why = "is in use" if error.errno == errno.EADDRINUSE else "is not for this user"
            raise EnvironmentFault(
                f"the port {why}",
                received=f"{host}:{port}",
                accepted="a free port, or 0 for any",
                next_step="name another --port, or stop what uses this one",
            ) from None
        raise _no_address(host, error) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where to point a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GracefulServer(uvicorn.Server):
    """Lets running answers end, for a while; then ends them with a proper event.

    Args:
        on_ready: called once the server answers.
    """

    def __init__(
        self, service: Service, config: uvicorn.Config, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        # Its warnings are of clients that have left, which is no news here.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        await super().startup(sockets=sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn new requests away; end what is left after the grace time."""
        worker = self._service.worker
        worker.close()
        ending = asyncio.get_running_loop().call_later(
            self._service.limits.grace_seconds, lambda: worker.end_all(shutting_down())
        )
        try:
            await super().shutdown(sockets=sockets)
        finally:
            ending.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; unlike uvicorn's own, a graceful stop is a success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        watched = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in watched}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(service: Service, on_ready: Callable[[], None] = lambda: None) -> GracefulServer:
    """The server of a service; ``server.run(sockets=[…])`` returns when it has stopped."""
    limits = service.limits
    config = uvicorn.Config(
        create_app(service),
        http=_connection(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(limits.grace_seconds) + _FLUSH_SECONDS,
    )
    return GracefulServer(service, config, on_ready)


def _connection(limits: Limits) -> Any:
    bounds = {"head_seconds": limits.head_seconds, "stall_seconds": limits.stall_seconds}
    return type("Connection", (GuardedConnection,), bounds)


def _no_address(host: str, error: OSError) -> InputFault:
    return InputFault(
        "the server cannot listen at this address",
        received=f"{host}: {error.strerror or error}",
        accepted="an address of this machine, such as 127.0.0.1 or 0.0.0.0",
        next_step="correct --host",
    )
