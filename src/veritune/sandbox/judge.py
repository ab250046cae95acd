"""One answer, run and judged: everything that decides is on this side of the border."""

from __future__ import annotations

import secrets
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from veritune.sandbox.interpreter import SandboxMissing
from veritune.sandbox.outcome import Execution, Job, Outcome
from veritune.sandbox.policy import Policy
from veritune.sandbox.process import Forged, Sandboxed, read_value, wait
from veritune.sandbox.questions import BadTests, Check, Step, plan

_PATIENCE_SECONDS = 0.25
_RESOURCES = frozenset(
    {
        "FileNotFoundError",
        "PermissionError",
        "NotADirectoryError",
        "ConnectionError",
        "gaierror",
        "URLError",
        "TclError",
        "error: no display",
    }
)
_FULL = ("[Errno 27]", "[Errno 28]")


class _Decided(Exception):
    """The outcome is known; nothing that happens later can change it."""

    def __init__(self, outcome: Outcome, detail: str = "") -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def execute(job: Job, policy: Policy, *, slot: int = 0, hash_seed: int = 0) -> Execution:
    """Run a job once.

    Args:
        slot: number of the worker that runs it.
        hash_seed: ``PYTHONHASHSEED`` inside.
    """
    started = time.monotonic()
    processes: list[Sandboxed] = []
    try:
        _converse(job, policy, slot, hash_seed, processes)
        outcome, detail = "infra", "the conversation ended without a verdict"
    except _Decided as decided:
        outcome, detail = decided.outcome, decided.detail
    except (SandboxMissing, OSError) as error:
        outcome, detail = "infra", str(error)
    finally:
        for process in processes:
            process.end()
    printed = processes[0].printed.decode("utf-8", "replace") if processes else ""
    seconds = time.monotonic() - started
    return Execution(outcome, detail, seconds, printed)  # type: ignore[arg-type]


def _converse(
    job: Job, policy: Policy, slot: int, hash_seed: int, processes: list[Sandboxed]
) -> None:
    def start(request: dict[str, Any], limits: Policy) -> Sandboxed:
        process = Sandboxed(request, limits, slot, hash_seed)
        processes.append(process)
        return process

    program = {"code": job.code, "setup": job.test_setup}
    if not job.tests:
        script = start({"mode": "script", "stdin": job.stdin, **program}, policy)
        _listen(policy, [(script, _Script(script))])
        return
    try:
        tests = plan(job)
    except BadTests as error:
        raise _Decided("infra", f"the tests cannot be run: {error}") from None
    if isinstance(tests, Check):
        answer = start({"mode": "calls", **program}, policy)
        examiner = start(
            {
                "mode": "check",
                "setup": job.test_setup,
                "tests": tests.source,
                "check": tests.function,
                "entry_point": job.entry_point,
                "remote": list(tests.remote),
            },
            policy,
        )
        calls = _Calls(answer, examiner)
        _listen(policy, [(answer, calls.from_answer), (examiner, calls.from_examiner)])
        return
    steps = [(step.kind, step.source) for step in tests]
    process = start({"mode": "steps", "steps": steps, **program}, policy)
    _listen(policy, [(process, _Steps(tests))])


Listener = Callable[[list[Any]], None]


def _listen(policy: Policy, sides: list[tuple[Sandboxed, Listener]]) -> None:
    """Hand every message on until somebody decides, time is up, or a process has ended."""
    deadline = time.monotonic() + policy.wall_seconds
    greeted: set[int] = set()
    processes = [process for process, _ in sides]
    while True:
        left = deadline - time.monotonic()
        wait(processes, max(0.0, min(left, _PATIENCE_SECONDS)))
        for process, listener in sides:
            try:
                for message in process.messages():
                    if id(process) in greeted:
                        listener(message)
                    elif message != ["hello"]:
                        raise Forged("no greeting")
                    greeted.add(id(process))
            except (Forged, IndexError, TypeError, ValueError) as error:
                raise _Decided("fail", f"it tampered with the result channel ({error})") from None
            if process.trouble:
                words = {"memory": "it used too much memory", "output": "it wrote too much"}
                raise _Decided(process.trouble, words[process.trouble])  # type: ignore[arg-type]
            if process.ended:
                if id(process) not in greeted:
                    raise _Decided("infra", _first_line(process) or "the sandbox did not start")
                _judge_end(process, isinstance(listener, _Script))
        if left <= 0:
            if len(greeted) < len(sides):
                raise _Decided("infra", "the sandbox did not start in time")
            raise _Decided("timeout", f"no end after {policy.wall_seconds:g} s")


def _judge_end(process: Sandboxed, is_script: bool) -> None:
    code = process.exit_code or 0
    number = code - 128 if code > 128 else -code
    if number > 0:
        if number in (signal.SIGXCPU, signal.SIGKILL) and code > 128:
            raise _Decided("timeout", "it used all its processor time")
        raise _Decided("crash", f"ended by {_signal_name(number)}")
    if is_script:
        raise _Decided("pass" if code == 0 else "fail", "" if code == 0 else f"exit code {code}")
    raise _Decided("fail", f"it ended the process (exit code {code}) before its tests were over")


class _Script:
    """Listens to a program that runs as a script; it may report the exception that ended it."""

    def __init__(self, process: Sandboxed) -> None:
        self._process = process

    def __call__(self, message: list[Any]) -> None:
        _raise_reported(message)


class _Steps:
    """Listens to the values of the steps, in order."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self._next = 0

    def __call__(self, message: list[Any]) -> None:
        if message[0] == "error":
            _raise_reported(message, self._where(message[1]))
        if message == ["end"] and self._next == len(self._steps):
            raise _Decided("pass")
        if message[0] not in ("done", "value", "printed") or message[1] != self._next:
            raise Forged("out of turn")
        step = self._steps[self._next]
        value = read_value(message[2])
        if not step.holds(value):
            raise _Decided("fail", f"{step.describe()} gave {_short(value)}")
        self._next += 1

    def _where(self, stage: Any) -> str:
        if isinstance(stage, int) and 0 <= stage < len(self._steps):
            return self._steps[stage].describe()
        return ""


class _Calls:
    """Carries calls from the tests' process to the answer's, and values back.

    Every call has a token that a reply must bear, so that none can be sent before it is asked for.
    """

    def __init__(self, answer: Sandboxed, examiner: Sandboxed) -> None:
        self._answer = answer
        self._examiner = examiner
        self._ready = False
        self._asked: deque[str] = deque()

    def from_answer(self, message: list[Any]) -> None:
        if message[0] == "error":
            _raise_reported(message)
        if message == ["ready"] and not self._ready:
            self._ready = True
            return
        asked_for = self._asked and message[1] == self._asked[0]
        if message[0] not in ("value", "raised") or not asked_for:
            raise Forged("out of turn")
        self._asked.popleft()
        content = read_value(message[2])
        if message[0] == "raised":
            if not isinstance(content, list) or not content or not isinstance(content[0], list):
                raise Forged("not an exception")
            outcome, _ = _classify(content)
            if outcome != "fail":
                raise _Decided(outcome, _exception_line(content))
        self._examiner.send((message[0], message[2]))

    def from_examiner(self, message: list[Any]) -> None:
        if message[0] == "call":
            self._asked.append(secrets.token_hex(8))
            self._answer.send((self._asked[-1], message[1], message[2], message[3]))
        elif message == ["end"]:
            raise _Decided("pass")
        elif message[0] == "error":
            content = read_value(message[2])
            # Tests fail by whatever exception leaves them; only the answer needs excuses.
            raise _Decided("fail", f"{message[1]}: {_exception_line(content)}")
        else:
            raise Forged("not a message of the tests")


def _raise_reported(message: list[Any], where: str = "") -> None:
    if message[0] != "error":
        raise Forged("not a report")
    content = read_value(message[2])
    if not isinstance(content, list) or len(content) != 3 or not isinstance(content[0], list):
        raise Forged("not an exception")
    outcome, detail = _classify(content)
    if message[1] == "setup":
        detail = f"test_setup: {detail}"
    raise _Decided(outcome, f"{where}: {detail}" if where else detail)


def _classify(content: list[Any]) -> tuple[Outcome, str]:
    """Whose fault an exception is: the answer's, or of what it may not have here."""
    names, message = {str(name) for name in content[0]}, str(content[1])
    line = _exception_line(content)
    if "MemoryError" in names:
        return "memory", line
    if "EOFError" in names and "reading a line" in message:
        return "needs_input", line
    if "ModuleNotFoundError" in names:
        return "missing_module", line
    if any(mark in message for mark in _FULL):
        return "output", line
    if names & _RESOURCES:
        return "needs_resource", line
    return "fail", line


def _exception_line(content: list[Any]) -> str:
    name = str(content[0][0]) if content[0] else "exception"
    message = " ".join(str(content[1]).split())[:300]
    return f"{name}: {message}" if message else name


def _first_line(process: Sandboxed) -> str:
    text = process.printed.decode("utf-8", "replace").strip()
    return text.split("\n")[0][:300]


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a large {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
