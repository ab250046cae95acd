"""One thread owns the engine; the event loop hands it requests and is handed tokens.

Both directions are bounded: a request is only let in while fewer than a fixed number are
under way, and one that is in can make at most ``max_new_tokens`` tokens.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from veritune.errors import VerituneError
from veritune.generate.engine import Emitted, Engine, Request
from veritune.serve.faults import LOG, ApiFault, from_veritune, shutting_down
from veritune.serve.gauges import Gauges

_FAILURES_TO_GIVE_UP = 3
_FIRST_GUESS_SECONDS = 2.0
_LONGEST_RETRY_SECONDS = 60
_MEMORY = 0.9
"""Weight of the past in the running mean of how long an answer takes."""


class Batch:
    """The engine's requests of one client, as the event loop sees them."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = tuple(requests)
        self.started = time.monotonic()
        self._items: deque[Emitted | ApiFault] = deque()
        self._ready = asyncio.Event()

    def put(self, item: Emitted | ApiFault) -> None:
        """Hand on a token, or the fault that ends them all."""
        self._items.append(item)
        self._ready.set()

    async def next(self) -> list[Emitted]:
        """Every token made since the last call, at least one.

        Raises:
            ApiFault: a request ended without being finished.
        """
        while not self._items:
            self._ready.clear()
            await self._ready.wait()
        tokens: list[Emitted] = []
        while self._items:
            item = self._items[0]
            if isinstance(item, ApiFault):
                if tokens:
                    break
                raise item
            tokens.append(item)
            self._items.popleft()
        return tokens


@dataclass(frozen=True, slots=True)
class _Command:
    kind: Literal["add", "cancel", "stop"]
    request_id: str = ""
    request: Request | None = None


_Outcome = tuple[str, Emitted | ApiFault | None]
"""What became of a request: a token, a fault, or None where it was cancelled."""


class Worker:
    """The engine's thread and the requests in it.

    Args:
        most_requests: under way or waiting at once.
    """

    def __init__(self, engine: Engine, gauges: Gauges, *, most_requests: int) -> None:
        self._engine = engine
        self._gauges = gauges
        self._most = most_requests
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        # The event loop's: whom tokens go to, and what the thread has not yet let go.
        self._batches: dict[str, Batch] = {}
        self._inside: set[str] = set()
        # The thread's.
        self._added: set[str] = set()
        self._failures = 0
        self._mean_seconds = _FIRST_GUESS_SECONDS
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        gauges.watch("veritune_active_requests", "Under way or waiting", lambda: self.n_inside)

    # -- the event loop's side -----------------------------------------------------------

    @property
    def systems(self) -> tuple[str, ...]:
        """``base`` and the adapters' names."""
        return self._engine.systems

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together, or None."""
        return self._engine.context_tokens

    @property
    def n_inside(self) -> int:
        """Requests that the engine knows or is about to know."""
        return len(self._inside)

    @property
    def closed(self) -> bool:
        """Whether new requests are turned away because the server is to stop."""
        return self._closed

    @property
    def healthy(self) -> bool:
        """Whether the engine works: its thread lives and its last steps did not all fail."""
        return self._thread.is_alive() and self._failures < _FAILURES_TO_GIVE_UP

    def start(self) -> None:
        """Begin to work for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> Batch:
        """Let requests in, all or none.

        Raises:
            ApiFault: 429 if there is no room, 503 if the server is to stop.
        """
        if self._closed:
            raise shutting_down()
        if len(self._inside) + len(requests) > self._most:
            self._gauges.refused.inc()
            raise ApiFault(
                429,
                f"the queue is full: {len(self._inside)} of at most {self._most} answers are"
                " under way or waiting",
                code="queue_full",
                retry_after=self._retry_after(),
            )
        batch = Batch(requests)
        for request in requests:
            self._batches[request.request_id] = batch
            self._inside.add(request.request_id)
            self._commands.put(_Command("add", request.request_id, request))
        return batch

    def cancel(self, request_id: str) -> bool:
        """Forget a request; says whether it was still under way."""
        if self._batches.pop(request_id, None) is None:
            return False
        self._commands.put(_Command("cancel", request_id))
        return True

    def close(self) -> None:
        """Let nothing new in."""
        self._closed = True

    def end_all(self, fault: ApiFault) -> None:
        """End every request under way with a fault."""
        for name, batch in list(self._batches.items()):
            self.cancel(name)
            batch.put(fault)

    async def stop(self, patience_seconds: float = 30.0) -> None:
        """End the thread after the step it is in."""
        self.close()
        self._commands.put(_Command("stop"))
        await asyncio.to_thread(self._thread.join, patience_seconds)

    def _retry_after(self) -> int:
        return max(1, min(_LONGEST_RETRY_SECONDS, round(self._mean_seconds)))

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        for name, item in outcomes:
            over = not isinstance(item, Emitted) or item.finish_reason is not None
            if over:
                self._inside.discard(name)
            batch = self._batches.get(name)
            if batch is None or item is None:
                continue
            if over:
                del self._batches[name]
                seconds = time.monotonic() - batch.started
                self._mean_seconds = _MEMORY * self._mean_seconds + (1 - _MEMORY) * seconds
            batch.put(item)

    # -- the thread's side ---------------------------------------------------------------

    def _work(self) -> None:
        while True:
            outcomes: list[_Outcome] = []
            goes_on = self._take_commands(outcomes)
            if goes_on and self._engine.n_active:
                outcomes += self._step()
            # What was cancelled together with the stop is told, too: nobody waits for it in vain.
            if outcomes:
                self._send(outcomes)
            if not goes_on:
                return

    def _take_commands(self, outcomes: list[_Outcome]) -> bool:
        """Do what is asked; wait for something while there is nothing to decode."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.n_active and not outcomes)
            except queue.Empty:
                return True
            if command.kind == "stop":
                return False
            if command.kind == "cancel":
                self._drop(command.request_id)
                outcomes.append((command.request_id, None))
            elif command.request is not None:
                fault = self._add(command.request)
                if fault is not None:
                    outcomes.append((command.request_id, fault))

    def _add(self, request: Request) -> ApiFault | None:
        fault = _fault_of(lambda: self._engine.add(request))
        if fault is None:
            self._added.add(request.request_id)
        return fault

    def _drop(self, request_id: str) -> None:
        self._added.discard(request_id)
        _fault_of(lambda: self._engine.cancel(request_id))

    def _step(self) -> list[_Outcome]:
        made: list[Emitted] = []
        fault = _fault_of(lambda: made.extend(self._engine.step()))
        if fault is None:
            self._failures = 0
            self._added -= {row.request_id for row in made if row.finish_reason is not None}
            return [(row.request_id, row) for row in made]
        self._failures += 1
        self._gauges.engine_failures.inc()
        # Which request broke it is not known, so none of them can go on.
        names = list(self._added)
        for name in names:
            self._drop(name)
        return [(name, fault) for name in names]

    def _send(self, outcomes: list[_Outcome]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, outcomes)
        except RuntimeError:
            # The loop is closed: nobody is left to read.
            self._closed = True


def _fault_of(work: Callable[[], object]) -> ApiFault | None:
    """Do something with the engine; whatever it raises, the thread lives on."""
    try:
        work()
    except VerituneError as error:
        return from_veritune(error)
    except MemoryError:
        return ApiFault(503, "memory ran out", code="out_of_memory", retry_after=5)
    except Exception as error:  # noqa: BLE001
        LOG.error("the engine failed", exc_info=error)
        return ApiFault(500, "the engine failed on this request", code="engine_failed")
    return None
