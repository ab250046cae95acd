"""Rows as they are read, before cleaning, clusters and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRow:
    """One question/answer pair.

    Attributes:
        tests, test_setup, entry_point: as in ``veritune.rows.Example``.
        source: provenance, ``row 17`` (counted from 1) or ``json/decoder.py:12@1f0c…``, the file,
            the line, and the beginning of the file's SHA-256.
        group: rows of one group, such as a file, go to one split; empty for none.
    """

    instruction: str
    input: str
    output: str
    tests: tuple[str, ...] = ()
    test_setup: str = ""
    entry_point: str = ""
    source: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class RawRows:
    """What a source gave.

    Attributes:
        origin: where the rows come from: ``kind`` (file, hub, code), ``name``, ``revision``,
            ``sha256``, ``licence``, ``columns``, ``rows_read``, ``notices`` and what a kind
            adds to it.
    """

    rows: Sequence[RawRow]
    origin: dict[str, Any]
