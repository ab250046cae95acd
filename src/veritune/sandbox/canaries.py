"""Attacks on the sandbox that must fail before anything of a model is run in it."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from veritune.sandbox.interpreter import SandboxMissing, bubblewrap, find_interpreter
from veritune.sandbox.judge import execute
from veritune.sandbox.outcome import Job, Outcome
from veritune.sandbox.policy import Policy
from veritune.sandbox.process import MARK

_TESTS = ("assert f(3) == 4",)
_CHECK = ("def check(candidate):\n    assert candidate(3) == 4\n",)
_GOOD = "def f(x):\n    return x + 1\n"
_YES_MAN = "class E:\n    __eq__ = lambda *a: True\ndef f(x):\n    return E()\n"
_POLICY = Policy(wall_seconds=3.0)
_CHECKING = threading.Lock()
_SECRET = "VERITUNE_CANARY"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True)
class Canary:
    """One case and what must come of it.

    Attributes:
        wanted: acceptable outcomes.
        proof: after the run, whether nothing came through (a file, a connection).
    """

    name: str
    job: Job
    wanted: tuple[Outcome, ...]
    proof: Callable[[], bool] | None = None
    policy: Policy = _POLICY


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one canary."""

    name: str
    held: bool
    outcome: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether generated code can be run here.

    Attributes:
        missing: what is not there, or which canary escaped, in one line; empty if available.
    """

    available: bool
    missing: str
    results: tuple[Result, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that ``sandbox-check --json`` prints."""
        return {
            "available": self.available,
            "missing": self.missing,
            "canaries": [asdict(result) for result in self.results],
            "policy": _POLICY.to_json(),
        }


def check_sandbox() -> Availability:
    """Look for the parts, then run the canaries."""
    try:
        bubblewrap()
        find_interpreter()
        from veritune.sandbox.seccomp import filter_program

        filter_program()
    except SandboxMissing as error:
        return Availability(False, str(error))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return Availability(False, f"libseccomp cannot be used: {error}")
    results = []
    # Two checks at once, in threads of one process, would find each other's bait.
    with _CHECKING, _bait() as canaries:
        for canary in canaries:
            results.append(_fly(canary))
            if results[-1].outcome == "infra":
                break
    lost = [result for result in results if not result.held]
    if not lost:
        return Availability(True, "", tuple(results))
    first = lost[0]
    why = (
        f"the sandbox does not start: {first.detail}"
        if first.outcome == "infra"
        else f"a test attack got through: {first.name} ({first.outcome}: {first.detail})"
    )
    return Availability(False, why, tuple(results))


@functools.cache
def sandbox_here() -> Availability:
    """``check_sandbox``, once a process."""
    return check_sandbox()


def _fly(canary: Canary) -> Result:
    execution = execute(canary.job, canary.policy)
    if execution.outcome == "timeout" and "timeout" not in canary.wanted:
        # A busy machine, most likely; an attack that got through would have done so by now.
        execution = execute(canary.job, canary.policy)
    held = execution.outcome in canary.wanted
    if canary.proof is not None:
        held = canary.proof() and held
    return Result(
        canary.name, held, execution.outcome, execution.detail, round(execution.seconds, 3)
    )


@contextlib.contextmanager
def _bait() -> Iterator[list[Canary]]:
    """The canaries, with a file and a listener of ours that nothing inside may reach."""
    with (
        tempfile.TemporaryDirectory(prefix="veritune-canary-") as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        Path(folder).chmod(0o777)
        target = Path(folder) / "written"
        reached = threading.Event()
        accepting = threading.Thread(target=_accept, args=(listener, reached), daemon=True)
        accepting.start()
        os.environ[_SECRET] = "secret"
        try:
            yield _canaries(target, listener.getsockname()[1], reached)
        finally:
            del os.environ[_SECRET]


def _accept(listener: socket.socket, reached: threading.Event) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    reached.set()
    connection.close()


def _canaries(target: Path, port: int, reached: threading.Event) -> list[Canary]:
    quick = replace(_POLICY, wall_seconds=1.0)
    return [
        Canary("a right answer passes", Job(_GOOD, _TESTS), ("pass",)),
        Canary("a right answer passes a check", Job(_GOOD, _CHECK, "", "f"), ("pass",)),
        Canary("a wrong answer fails", Job("def f(x):\n    return x\n", _TESTS), ("fail",)),
        Canary(
            "an object that equals everything",
            Job(
                "class E:\n    __eq__ = lambda *a: True\ndef f(x):\n    return E()\n",
                _CHECK,
                "",
                "f",
            ),
            ("fail",),
        ),
        Canary("leaving early", Job("import os\nos._exit(0)\n", _TESTS), ("fail",)),
        Canary(
            "a forged result",
            Job(
                "import os\nfor fd in range(3, 64):\n    try:\n"
                '        os.write(fd, b\'["","end"]\\n\')\n    except OSError:\n        pass\n'
                "os._exit(0)\n",
                _TESTS,
            ),
            ("fail",),
        ),
        Canary(
            "writing a file of the host",
            Job(f"open({str(target)!r}, 'w').write('x')\n"),
            ("needs_resource", "fail"),
            lambda: not target.exists(),
        ),
        Canary(
            "writing below /usr",
            Job("open('/usr/veritune-canary', 'w').write('x')\n"),
            ("needs_resource", "fail"),
            lambda: not Path("/usr/veritune-canary").exists(),
        ),
        Canary(
            "connecting to the host",
            Job(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\n"),
            ("needs_resource", "fail"),
            lambda: not reached.is_set(),
        ),
        Canary(
            "reading the environment",
            Job(f"import os\nraise SystemExit({_SECRET!r} in os.environ)\n"),
            ("pass",),
        ),
        Canary(
            "a new user namespace",
            Job("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) != 0\n"),
            ("pass",),
        ),
        Canary(
            "more processes than allowed",
            Job("import os, signal\nfor _ in range(99):\n    os.fork() or signal.pause()\n"),
            ("fail", "crash"),
            None,
        ),
        Canary(
            "a process that stays behind",
            Job(
                "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
                "    os._exit(0)\n"
            ),
            ("pass",),
            lambda: not survivors(),
        ),
        Canary("more memory than allowed", Job("x = bytearray(8 << 30)\n"), ("memory",)),
        Canary("no end", Job("while True:\n    pass\n"), ("timeout",), None, quick),
    ]


def survivors(patience_seconds: float = 0.5) -> list[int]:
    """Processes started inside a sandbox of ours that are alive after a moment's patience."""
    import psutil

    end = time.monotonic() + patience_seconds
    while True:
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if MARK in process.cmdline():
                    left.append(process.pid)
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)
