"""What a preparation step did to the rows, for the data card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepCount:
    """One step.

    Attributes:
        changed: rows whose text the step changed.
        dropped: rows that the step took out.
        rows_after: rows left after it.
    """

    name: str
    description: str
    enabled: bool
    changed: int
    dropped: int
    rows_after: int
