"""Every error a user can meet, as one tree.

    VerituneError
    ├── GateFailed                exit 1   a gate asked for with --require did not hold
    ├── InputFault                exit 2   what the user gave is at fault
    │   ├── RecipeError                    the recipe or a --set override
    │   ├── DataError                      a data source, its columns or its rows
    │   ├── ModelReferenceError            a model, tokenizer or adapter reference
    │   └── RunDirectoryError              an output folder that cannot serve
    └── EnvironmentFault          exit 3   this machine cannot do it
        ├── OutOfMemory                    the work does not fit in memory
        ├── DiskFault                      writing failed (disk full, read-only, no permission)
        └── Interrupted                    stopped by the user; the run can be resumed

A message always says four things: the fault, the value received, what is accepted,
and the next step.  The command line prints them and exits; it never shows a traceback
for a user's mistake.
"""

from __future__ import annotations

from typing import ClassVar


class VerituneError(Exception):
    """Base of all errors that Veritune raises on purpose.

    Args:
        fault: what is wrong, in one sentence without a final full stop.
        received: the offending value, as the user would recognise it.
        accepted: what would have been accepted.
        next_step: what to do now.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        fault: str,
        *,
        received: object = None,
        accepted: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.fault = fault
        self.received = None if received is None else str(received)
        self.accepted = accepted
        self.next_step = next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.fault]
        if self.received is not None:
            lines.append(f"  received: {_shorten(self.received)}")
        if self.accepted is not None:
            lines.append(f"  accepted: {self.accepted}")
        if self.next_step is not None:
            lines.append(f"  next:     {self.next_step}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The error as the object printed by ``--json``."""
        return {
            "error": type(self).__name__,
            "fault": self.fault,
            "received": self.received,
            "accepted": self.accepted,
            "next_step": self.next_step,
            "exit_code": self.exit_code,
        }


class GateFailed(VerituneError):
    """A gate that the user asked for did not hold."""

    exit_code = 1


class InputFault(VerituneError):
    """What the user gave is at fault."""

    exit_code = 2


class RecipeError(InputFault):
    """The recipe or one of its overrides is at fault."""


class DataError(InputFault):
    """A data source, its columns or its rows are at fault."""


class ModelReferenceError(InputFault):
    """A model, tokenizer or adapter reference is at fault."""


class RunDirectoryError(InputFault):
    """An output folder cannot serve as this run's directory."""


class EnvironmentFault(VerituneError):
    """This machine cannot do what was asked."""

    exit_code = 3


class OutOfMemory(EnvironmentFault):
    """The work does not fit in memory."""


class DiskFault(EnvironmentFault):
    """Writing failed: disk full, read-only file system, or no permission."""


class Interrupted(EnvironmentFault):
    """Stopped by the user; what was done is kept and the run can be resumed."""


def _shorten(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
