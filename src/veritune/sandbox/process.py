"""One sandboxed process, from the outside: started, fed, watched, ended."""

from __future__ import annotations

import contextlib
import functools
import json
import marshal
import os
import secrets
import selectors
import signal
import subprocess
import time
from importlib import resources
from pathlib import Path
from typing import Any

from veritune.sandbox.interpreter import command
from veritune.sandbox.policy import Policy
from veritune.sandbox.seccomp import filter_program
from veritune.sandbox.values import Unreadable, decode

MARK = f"veritune-sandbox-{os.getpid()}"
"""Stands in the command line of every child, so that survivors can be told."""

_CHUNK = 1 << 16
_KEPT = 4000
_LOOK_SECONDS = 0.1


class Forged(ValueError):
    """A line that our child never writes."""


class Sandboxed:
    """A child in the sandbox.

    Attributes:
        printed: the beginning of stdout and stderr.
        trouble: ``memory`` or ``output`` once a limit of the parent's was passed.
    """

    def __init__(self, request: dict[str, Any], policy: Policy, slot: int, hash_seed: int) -> None:
        self._policy = policy
        self._nonce = secrets.token_hex(16)
        self._outgoing = b""
        self._lines = b""
        self._received = 0
        self._output = 0
        self._next_look = 0.0
        self.printed = b""
        self.trouble = ""
        self._start({**request, "nonce": self._nonce, "limits": _limits(policy)}, slot, hash_seed)

    def _start(self, request: dict[str, Any], slot: int, hash_seed: int) -> None:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as on_fault:
            seccomp, program = _pipe(theirs, on_fault)
            os.write(program, filter_program())
            os.close(program)
            requests, self._request = _pipe(theirs, on_fault)
            results_in, results = os.pipe()
            theirs.callback(_close, results)
            on_fault.callback(_close, results_in)
            inherited = [str(requests), str(results)]
            self._process = subprocess.Popen(
                [
                    *command(self._policy, slot, seccomp, hash_seed),
                    *("-c", child_source(), *inherited, MARK),
                ],
                stdin=subprocess.PIPE if request.get("stdin") else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[seccomp, requests, results],
            )
            on_fault.pop_all()
        self._pidfd = os.pidfd_open(self._process.pid)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._sources = {
            results_in: self._take_lines,
            self._process.stdout.fileno(): self._take_output,
            self._process.stderr.fileno(): self._take_output,
        }
        self._results = results_in
        self._stdin = b""
        if self._process.stdin is not None:
            self._stdin = str(request["stdin"]).encode("utf-8", "replace")
        for fd in (*self._sources, self._request):
            os.set_blocking(fd, False)
        self.send({key: value for key, value in request.items() if key != "stdin"})

    # -- what the selector needs ---------------------------------------------------------

    def readable(self) -> list[int]:
        """Descriptors to wait for; the process's own among them until it has ended."""
        return [*self._sources, *([self._pidfd] if self._process.returncode is None else [])]

    def writable(self) -> list[int]:
        """Descriptors with something left to write."""
        found = [self._request] if self._outgoing else []
        if self._stdin and self._process.stdin is not None:
            found.append(self._process.stdin.fileno())
        return found

    def handle(self, fd: int, events: int) -> None:
        """Do what a descriptor is ready for."""
        if events & selectors.EVENT_WRITE:
            self._write(fd)
        elif fd == self._pidfd:
            self._process.poll()
        elif fd in self._sources:
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                return
            if data:
                self._sources[fd](data)
            else:
                del self._sources[fd]

    def _write(self, fd: int) -> None:
        try:
            if fd == self._request:
                self._outgoing = self._outgoing[os.write(fd, self._outgoing[:_CHUNK]) :]
            else:
                self._stdin = self._stdin[os.write(fd, self._stdin[:_CHUNK]) :]
                if not self._stdin and self._process.stdin is not None:
                    self._process.stdin.close()
                    self._process.stdin = None
        except BlockingIOError:
            return
        except OSError:
            # It closed its end; what it misses is its own affair.
            if fd == self._request:
                self._outgoing = b""
            else:
                self._stdin = b""

    def _take_lines(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._policy.result_bytes:
            self.trouble = "output"
            return
        self._lines += data

    def _take_output(self, data: bytes) -> None:
        self._output += len(data)
        self.printed = (self.printed + data)[:_KEPT]
        if self._output > self._policy.output_bytes:
            self.trouble = "output"

    # -- the conversation ----------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Queue a message for the child."""
        body = marshal.dumps(message, 4)
        self._outgoing += len(body).to_bytes(8, "big") + body

    def messages(self) -> list[list[Any]]:
        """Whole lines that arrived since the last call, without the nonce, undecoded.

        Raises:
            Forged: a line that is not ours.
        """
        *whole, self._lines = self._lines.split(b"\n")
        found = []
        for line in whole:
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError):
                raise Forged("not JSON") from None
            if type(fields) is not list or len(fields) < 2 or fields[0] != self._nonce:
                raise Forged("not from our child")
            found.append(fields[1:])
        return found

    def look(self, now: float) -> None:
        """Add up the memory of every process inside, now and then."""
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        if _resident_bytes(self._process.pid) > self._policy.resident_bytes:
            self.trouble = "memory"

    @property
    def ended(self) -> bool:
        """Whether the process has ended and everything it sent was read."""
        return self._process.returncode is not None and not self._sources

    @property
    def exit_code(self) -> int | None:
        """Of the program inside; above 128 the signal that ended it."""
        return self._process.returncode

    def end(self) -> None:
        """Kill whatever is left inside, and wait until it is gone."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        _close(self._pidfd, self._request, self._results)


def read_value(tree: Any) -> Any:
    """Decode a value that a child sent.

    Raises:
        Forged: it is not one.
    """
    try:
        return decode(tree)
    except Unreadable as error:
        raise Forged(str(error)) from None


@functools.cache
def child_source() -> str:
    """The text that runs inside: both modules as one, without imports of ours."""
    package = resources.files("veritune.sandbox")
    lines = ["from __future__ import annotations"]
    for name in ("values.py", "child.py"):
        text = (package / name).read_text(encoding="utf-8")
        ours = ("from __future__", "from veritune")
        lines += [line for line in text.split("\n") if not line.startswith(ours)]
    return "\n".join([*lines, "main()", ""])


def _pipe(theirs: contextlib.ExitStack, on_fault: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe that the child reads from; its end is closed here as soon as it has started."""
    reading, writing = os.pipe()
    theirs.callback(_close, reading)
    on_fault.callback(_close, writing)
    return reading, writing


def _limits(policy: Policy) -> dict[str, int]:
    return {
        "RLIMIT_AS": policy.address_bytes,
        "RLIMIT_CPU": policy.cpu_seconds,
        "RLIMIT_FSIZE": policy.file_bytes,
        "RLIMIT_NOFILE": policy.open_files,
        "RLIMIT_NPROC": policy.processes,
        "RLIMIT_CORE": 0,
    }


def _close(*descriptors: int) -> None:
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process and all below it, in bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * page
            for task in Path(f"/proc/{process}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


def wait(processes: list[Sandboxed], seconds: float) -> None:
    """Let every process go on until one of them has something to say."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            for fd in process.readable():
                selector.register(fd, selectors.EVENT_READ, process)
            for fd in process.writable():
                selector.register(fd, selectors.EVENT_WRITE, process)
        if not selector.get_map():
            time.sleep(min(seconds, 0.01))
            return
        for key, events in selector.select(seconds):
            key.data.handle(key.fd, events)
    now = time.monotonic()
    for process in processes:
        process.look(now)
