"""What came of running one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal[
    "pass",
    "fail",
    "timeout",
    "memory",
    "output",
    "crash",
    "needs_input",
    "missing_module",
    "needs_resource",
    "flaky",
    "infra",
]
OUTCOMES: tuple[Outcome, ...] = (
    "pass",
    "fail",
    "timeout",
    "memory",
    "output",
    "crash",
    "needs_input",
    "missing_module",
    "needs_resource",
    "flaky",
    "infra",
)
"""``infra`` says that the sandbox itself failed: it counts neither for nor against anybody."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One answer, run.

    Attributes:
        outcome: ``pass`` only if every test gave what it expects, or, without tests, the
            program ended by itself with exit code 0.
        detail: one line on what happened, such as the exception; empty for a pass.
        seconds: by the parent's clock.
        printed: the beginning of what it wrote to stdout and stderr.
    """

    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0
    printed: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to run.

    Attributes:
        code: a whole program, run first.
        tests: statements, doctest examples (``>>> …``) or one ``def check(candidate)``; empty
            to run the program as a script.
        test_setup: statements run after the program and before the tests.
        entry_point: the function that ``check`` is handed.
        stdin: what a script reads.
    """

    code: str
    tests: tuple[str, ...] = ()
    test_setup: str = ""
    entry_point: str = ""
    stdin: str = ""
