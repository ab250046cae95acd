"""Rows as they are read, before cleaning, clusters and splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRow:
    """One question/answer pair.

    Attributes:
        tests, test_setup, entry_point: as in ``veritune.rows.Example``.
        source: provenance, ``row 17`` (counted from 1) or ``json/decoder.py:12``.
    """

    instruction: str
    input: str
    output: str
    tests: tuple[str, ...] = ()
    test_setup: str = ""
    entry_point: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class RawRows:
    """What a source gave.

    Attributes:
        origin: where the rows come from: ``kind`` (file, hub, code), ``name``, ``revision``,
            ``sha256``, ``licence``, ``columns``, ``rows_read``, ``notices`` and what a kind
            adds to it.
    """

    rows: list[RawRow]
    origin: dict[str, Any]
