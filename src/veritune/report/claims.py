"""What LoRA promised, beside what this run measured of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from veritune.report.headline import VERDICT_MARKS
from veritune.report.load import RunFiles
from veritune.report.wording import (
    DASH,
    count,
    duration,
    fixed,
    interval,
    is_number,
    rows_of,
    signed,
    significant,
    visible,
)

# Where a verdict in words ends and what belongs to it begins.
_JOINT = re.compile(r": |; | \((?=.*\)$)")
_UNMEASURED = "not measured"
_HOLDS = {True: "better", False: "worse", None: "no difference detected"}


@dataclass(frozen=True)
class ClaimRow:
    """One claim.

    Attributes:
        change: ratio or difference.
        said, note: the verdict in a few words, and what belongs to it.
        kind, symbol: class and sign of its verdict.
    """

    claim: str
    what: str
    ours: str
    against: str
    change: str
    interval: str
    said: str
    note: str
    kind: str
    symbol: str


def make_claims(files: RunFiles) -> list[ClaimRow]:
    """The table; empty where the run was evaluated before there was one."""
    return [_row(row) for row in rows_of(files.details("claims"))]


def _row(row: Mapping[str, object]) -> ClaimRow:
    unit, verdict = str(row.get("unit")), visible(row.get("verdict") or DASH)
    holds = row.get("holds")
    result = _HOLDS[holds if isinstance(holds, bool) else None]
    kind, symbol = VERDICT_MARKS[_UNMEASURED if verdict.startswith(_UNMEASURED) else result]
    said, *notes = _JOINT.split(verdict, maxsplit=1)
    note = "".join(notes)
    low, high = row.get("ci_low"), row.get("ci_high")
    is_ratio = "delta" not in row
    between = DASH
    if is_number(low) and is_number(high):
        between = f"[{fixed(low, 3)}, {fixed(high, 3)}]" if is_ratio else interval(low, high)
    return ClaimRow(
        claim=visible(row.get("claim") or DASH),
        what=visible(row.get("what") or ""),
        ours=_amount(unit, row.get("ours")),
        against=_amount(unit, row.get("against")),
        change=_ratio(row.get("ratio")) if is_ratio else signed(row.get("delta")),
        interval=between,
        said=said,
        note=note.removesuffix(")") if note.count("(") < note.count(")") else note,
        kind=kind,
        symbol=symbol,
    )


def _ratio(value: object) -> str:
    if not is_number(value):
        return DASH
    return f"× {value:.2f}" if value >= 0.1 else f"× {significant(value, 2)}"


def _amount(unit: str, value: object) -> str:
    if not is_number(value):
        return DASH
    if unit == "bytes":
        large = value >= 2**30
        return f"{value / 2**30:.2f} GiB" if large else f"{value / 2**20:.1f} MiB"
    if unit == "seconds":
        return duration(value)
    if unit == "seconds/token":
        return f"{1000 * value:.1f} ms"
    if unit == "tokens/s":
        return f"{significant(value)} /s"
    return count(value) if unit == "parameters" else fixed(value)
