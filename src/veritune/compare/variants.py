"""Answers of further trainings, told apart by the name of their system.

``adapted:seed=1`` is the recipe trained once more with another seed, ``adapted:rows=64``
the recipe trained on 64 rows, ``retrieval:rows=64`` retrieval from the same 64.  They are
scored like every other system, but none of them is a baseline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from veritune.rows import Prediction, Score

Kind = Literal["seed", "rows"]
Row = TypeVar("Row", Score, Prediction)
_VARIANT = re.compile(r"(?:adapted|retrieval):(?:seed|rows)=\d+\Z")


def variant_name(system: str, kind: Kind, value: int) -> str:
    """The name under which a further training's answers are kept."""
    return f"{system}:{kind}={value}"


def is_variant(system: str) -> bool:
    """Whether a name stands for a further training."""
    return _VARIANT.match(system) is not None


def without_variants(rows: Iterable[Row]) -> list[Row]:
    """The rows of the systems that are compared."""
    return [row for row in rows if not is_variant(row.system)]


def variants_of(rows: Iterable[Row], system: str, kind: Kind) -> dict[int, Sequence[Row]]:
    """The rows of one system's variants, by seed or by number of rows, rising."""
    found: dict[int, list[Row]] = {}
    start = f"{system}:{kind}="
    for row in rows:
        if row.system.startswith(start):
            found.setdefault(int(row.system.removeprefix(start)), []).append(row)
    return {value: found[value] for value in sorted(found)}
