"""An engine that knows its answers beforehand, and a service around it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiny_models import build_tokenizer
from veritune.config import Recipe
from veritune.errors import DataError, ModelReferenceError
from veritune.generate.engine import BASE, Emitted, Request
from veritune.model.prompt import PromptFormat
from veritune.rows import Example, write_examples
from veritune.run_dir import RunDirectory
from veritune.serve.catalog import Catalog, ServedRun
from veritune.serve.gauges import Gauges
from veritune.serve.limits import Limits
from veritune.serve.server import GracefulServer, bind, make_server, url_of
from veritune.serve.service import Service
from veritune.serve.worker import Worker

TOKENIZER = build_tokenizer(chat=True)
END = int(TOKENIZER.eos_token_id)
ANSWERS = {
    BASE: "numbers = [3, 1, 2]\nprint(max(numbers)\n",
    "tiny": "numbers = [3, 1, 2]\nnumbers.sort()\nprint('größtes 🎈', numbers[-1])\n",
    "other": "print(input())\n",
}


def encode(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


class FakeEngine:
    """Emits known tokens, one a step, whatever the prompt.

    Attributes:
        pause: seconds that a step takes.
        break_next: steps that are to fail.
        seen: every request that was added.
    """

    def __init__(
        self, answers: dict[str, str] | None = None, *, context: int | None = 256, pause: float = 0
    ) -> None:
        self.answers = {name: encode(text) for name, text in (answers or ANSWERS).items()}
        self.pause = pause
        self.break_next = 0
        self.seen: list[Request] = []
        self.cancelled: list[str] = []
        self._context = context
        self._active: dict[str, tuple[Request, int]] = {}

    @property
    def systems(self) -> tuple[str, ...]:
        return tuple(self.answers)

    @property
    def context_tokens(self) -> int | None:
        return self._context

    @property
    def n_active(self) -> int:
        return len(self._active)

    def add(self, request: Request) -> None:
        self.seen.append(request)
        if request.system not in self.answers:
            raise ModelReferenceError("no such system", received=request.system)
        if 11 in request.prompt_ids and 12 in request.prompt_ids and 13 in request.prompt_ids:
            raise DataError("the engine refuses this prompt")
        self._active[request.request_id] = (request, 0)

    def cancel(self, request_id: str) -> None:
        if self._active.pop(request_id, None) is not None:
            self.cancelled.append(request_id)

    def step(self) -> list[Emitted]:
        if self.pause:
            time.sleep(self.pause)
        if self.break_next:
            self.break_next -= 1
            raise RuntimeError("a fault in the engine")
        return [self._next(*pair) for pair in list(self._active.values())]

    def _next(self, request: Request, place: int) -> Emitted:
        ids = self.answers[request.system]
        token = ids[place] if place < len(ids) else END
        reason = "stop" if token == END else None
        if reason is None and place + 1 >= request.max_new_tokens:
            reason = "length"
        if reason is None:
            self._active[request.request_id] = (request, place + 1)
        else:
            del self._active[request.request_id]
        top = ((token, -0.5), (5, -1.5), (6, -2.5))[: request.n_logprobs]
        return Emitted(request.request_id, token, -0.5, top, reason)  # type: ignore[arg-type]


def write_run(folder: Path) -> RunDirectory:
    """As much of a run directory as a server reads."""
    run = RunDirectory(folder)
    run.adapter.mkdir(parents=True)
    run.adapter_weights.write_bytes(b"weights of " + folder.name.encode())
    write_examples(
        run.split_file("train"),
        [
            Example("t1", "c1", "train", "Sort a list of numbers", "", "print(sorted([2, 1]))\n"),
            Example("t2", "c2", "train", "Open <b>a</b> file", "", "open('file')\n"),
        ],
    )
    return run


def make_service(
    folder: Path,
    engine: FakeEngine | None = None,
    *,
    limits: Limits | None = None,
    **settings: Any,
) -> Service:
    """A service of the fake engine and its runs, whose folders are made."""
    engine = engine or FakeEngine()
    wording = PromptFormat(
        TOKENIZER, "causal", chat=True, template="{question}", system=None, join_input=True,
        end_id=END,
    )  # fmt: skip
    recipe = Recipe.model_validate({"output_dir": "x", "evaluate": {"max_new_tokens": 64}})
    runs = tuple(
        ServedRun(name, write_run(folder / name), recipe, wording, f"sha-of-{name}")
        for name in engine.systems
        if name != BASE
    )
    gauges, limits = Gauges(), limits or Limits()
    worker = Worker(engine, gauges, most_requests=limits.requests)
    return Service(
        Catalog(runs, "a fake base", 1_700_000_000), worker, limits, gauges, "fake", **settings
    )


@contextlib.contextmanager
def running(service: Service) -> Iterator[tuple[str, GracefulServer]]:
    """A server on loopback for the time of a ``with`` block: (URL, server)."""
    listener = bind("127.0.0.1", 0)
    url, ready = url_of(listener), threading.Event()
    server = make_server(service, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield url, server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
