"""One thing found in the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from veritune.rows import Example

_N_EXAMPLES_OF_KIND = 3
_N_KINDS = 30
_SHOWN_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Shown:
    """A row as an example of a finding."""

    example_id: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A group of rows with something in common.

    Attributes:
        name: stable, for programs.
        title: what it is, after the number of rows.
        meaning: why it matters.
        setting: ``key=value`` of the recipe that would change it, or empty.
        n_rows: rows it holds for.
        kinds: rows of each kind, the most frequent first; a row may be of several.
    """

    name: str
    title: str
    meaning: str
    setting: str
    n_rows: int
    kinds: dict[str, int]
    examples: list[Shown]

    def to_json(self) -> dict[str, Any]:
        """The finding as the card holds it."""
        return asdict(self)


def make_finding(
    name: str,
    title: str,
    meaning: str,
    found: Sequence[tuple[Example, Iterable[str], str]],
    setting: str = "",
) -> Finding:
    """A finding from (row, its kinds, the text to show) triples, rows in order."""
    counts: Counter[str] = Counter()
    shown = []
    for example, kinds, text in found:
        for kind in dict.fromkeys(kinds):
            counts[kind] += 1
            if counts[kind] <= _N_EXAMPLES_OF_KIND:
                shown.append(Shown(example.example_id, kind, text[:_SHOWN_CHARACTERS]))
    kinds_shown = dict(counts.most_common(_N_KINDS))
    order = {kind: place for place, kind in enumerate(kinds_shown)}
    shown = sorted(
        (item for item in shown if item.kind in order), key=lambda item: order[item.kind]
    )
    return Finding(name, title, meaning, setting, len(found), kinds_shown, shown)
