"""The same work on batch after batch, in processes of their own, results in order.

Batches travel as Arrow streams through pipes: nothing is pickled, nothing of the caller's
program is imported again, and what a batch gives does not depend on who worked on it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

import veritune

Work = Callable[[pa.RecordBatch], pa.RecordBatch]

MIN_ROWS = 10_000
"""Fewer rows are done before other processes have started."""
_MAX_PROCESSES = 16
_BATCHES_AHEAD = 3
_SECONDS_TO_END = 30
_LENGTH_BYTES = 4


class Workers:
    """Processes that stay for one work after another, started when the first has need of them.

    Args:
        wanted: how many; by the number of rows and cores if None.
    """

    def __init__(self, wanted: int | None = None) -> None:
        self._wanted = wanted
        self._running: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *fault: object) -> None:
        self._end(in_peace=fault[0] is None)

    def count(self, n_rows: int) -> int:
        """How many processes suit so many rows."""
        if self._wanted is not None:
            return max(1, self._wanted)
        cores = len(os.sched_getaffinity(0))
        return min(_MAX_PROCESSES, cores) if n_rows >= MIN_ROWS else 1

    def map(
        self, work: str, settings: dict[str, Any], batches: Iterable[pa.RecordBatch], n_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """What ``work`` makes of each batch, in order.

        Args:
            work: ``module:function``; called with the settings it gives the ``Work``.
            settings: plain JSON.
            n_rows: in all batches; few are done here.
        """
        count = self.count(n_rows)
        if count <= 1:
            do = _work_of(work, settings)
            yield from map(do, batches)
            return
        while len(self._running) < count:
            self._running.append(_Worker())
        is_done = False
        try:
            for worker in self._running:
                worker.begin(work, settings)
            yield from _in_turn(self._running[:count], batches)
            for worker in self._running:
                worker.finish()
            is_done = True
        finally:
            if not is_done:  # some are in the midst of it
                self._end(in_peace=False)

    def _end(self, *, in_peace: bool) -> None:
        running, self._running = self._running, []
        for worker in running:
            worker.close(in_peace=in_peace)


def _in_turn(
    workers: Sequence[_Worker], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    waiting: deque[_Worker] = deque()
    for number, batch in enumerate(batches):
        worker = workers[number % len(workers)]
        worker.give(batch)
        waiting.append(worker)
        if len(waiting) >= len(workers) * _BATCHES_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def serve() -> None:
    """Do one work after another: its name and settings, then its batches, come on stdin."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not end up among the results
    received = io.BufferedReader(io.FileIO(0))
    with contextlib.suppress(BrokenPipeError):
        while length := received.read(_LENGTH_BYTES):
            work, settings = json.loads(received.read(int.from_bytes(length, "little")))
            do = _work_of(work, settings)
            writer = None
            with pa.ipc.open_stream(received) as reader:
                for batch in reader:
                    result = do(batch)
                    if writer is None:
                        writer = pa.ipc.new_stream(output, result.schema)
                    writer.write_batch(result)
                    output.flush()
            if writer is not None:
                writer.close()
                output.flush()


class _Worker:
    """One process; a thread feeds it, so that neither side waits for the other's pipe."""

    def __init__(self) -> None:
        paths = [str(Path(veritune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._waiting: queue.SimpleQueue[bytes | pa.RecordBatch | None] = queue.SimpleQueue()
        self._header: bytes | None = None
        self._has_batches = False
        self._reader: Any = None
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def begin(self, work: str, settings: dict[str, Any]) -> None:
        """What to do with the batches that follow."""
        text = json.dumps([work, settings]).encode()
        self._header = len(text).to_bytes(_LENGTH_BYTES, "little") + text
        self._has_batches = False

    def give(self, batch: pa.RecordBatch) -> None:
        """Put a batch into the queue."""
        if not self._has_batches:
            assert self._header is not None
            self._waiting.put(self._header)
            self._has_batches = True
        self._waiting.put(batch)

    def result(self) -> pa.RecordBatch:
        """What came of the next batch."""
        try:
            if self._reader is None:
                self._reader = pa.ipc.open_stream(self._process.stdout)
            return self._reader.read_next_batch()
        except (pa.ArrowException, StopIteration, OSError) as error:
            self._process.wait(_SECONDS_TO_END)
            raise RuntimeError(
                f"a worker process ended early (exit {self._process.returncode})"
            ) from error

    def finish(self) -> None:
        """End the work; the process waits for the next."""
        if not self._has_batches:
            return
        self._waiting.put(None)
        with contextlib.suppress(StopIteration):
            self._reader.read_next_batch()  # the mark of the end, left in the pipe else
        self._reader = None

    def close(self, *, in_peace: bool) -> None:
        """End the process."""
        if not in_peace:
            self._process.kill()
        self._waiting.put(_CLOSE)
        self._feeder.join(_SECONDS_TO_END)
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _feed(self) -> None:
        assert self._process.stdin is not None
        writer = None
        with contextlib.suppress(OSError, ValueError), self._process.stdin as pipe:
            while (item := self._waiting.get()) is not _CLOSE:
                if isinstance(item, bytes):
                    pipe.write(item)
                elif item is None:
                    assert writer is not None
                    writer.close()
                    writer = None
                else:
                    if writer is None:
                        writer = pa.ipc.new_stream(pipe, item.schema)
                    writer.write_batch(item)
                pipe.flush()


_PROGRAM = "from veritune.data.workers import serve; serve()"
_CLOSE = b""


def _work_of(name: str, settings: dict[str, Any]) -> Work:
    module, _, function = name.partition(":")
    work: Work = getattr(importlib.import_module(module), function)(**settings)
    return work
