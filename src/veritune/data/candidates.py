"""A mined function before its tests have been tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from veritune.data.raw_rows import RawRow


@dataclass(frozen=True, slots=True)
class Trial:
    """Tests that stand or fall together: a docstring's examples, or one unit test.

    Attributes:
        kind: ``examples`` of a docstring; ``asserts`` at top level; ``check``, statements that
            only make sense inside a function.
        tests: statements, in order.
        before: imports, constants and functions of the test file that they need.
        where: ``tests/test_x.py:12``; empty for examples.
    """

    kind: Literal["examples", "asserts", "check"]
    tests: tuple[str, ...]
    before: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A function that may become an example.

    Attributes:
        row: the example without tests.
        test_setup: the rest of its module.
        trials: what may become its tests.
        is_trivial: it is left out unless a test is worth something.
    """

    row: RawRow
    test_setup: str = ""
    trials: tuple[Trial, ...] = ()
    is_trivial: bool = False
