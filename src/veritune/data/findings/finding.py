"""One thing found in the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from veritune.data.findings.masked import cut
from veritune.rows import Example

Level = Literal["act", "look", "know"]
"""Change the data or the recipe before training; look at the rows; good to know."""

LEVELS: tuple[Level, ...] = ("act", "look", "know")
_N_EXAMPLES_OF_KIND = 3
_N_KINDS = 30
_N_SHOWN = 30
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
        level: how urgent it is.
        title: what it is, after the number of rows.
        meaning: why it matters, in a sentence or two.
        setting: ``key=value`` of the recipe that would change it, or empty.
        n_rows: rows it holds for, of the ``of_rows`` that were looked at.
        sampled: the rows looked at are a seeded sample.
        kinds: rows of each kind, the most frequent first; a row may be of several.
    """

    name: str
    level: Level
    title: str
    meaning: str
    setting: str
    n_rows: int
    of_rows: int
    sampled: bool
    kinds: dict[str, int]
    examples: list[Shown]

    @property
    def sentence(self) -> str:
        """What was found, in plain words."""
        share = 100 * self.n_rows / max(1, self.of_rows)
        percent = "under 1" if 0 < share < 1 else f"{share:.0f}"
        of_rows = f"{self.of_rows:,} sampled" if self.sampled else f"{self.of_rows:,}"
        return f"{self.n_rows:,} of {of_rows} {self.title} ({percent} %)."

    def to_json(self) -> dict[str, Any]:
        """The finding as the card holds it."""
        share = round(100 * self.n_rows / max(1, self.of_rows), 2)
        return {**asdict(self), "share_percent": share, "sentence": self.sentence}


class Collector:
    """Gathers the rows of a finding one by one; keeps counts and a few examples."""

    def __init__(
        self,
        name: str,
        title: str,
        meaning: str,
        setting: str = "",
        *,
        level: Level = "look",
        act_from_percent: float | None = None,
    ) -> None:
        """``act_from_percent``: share of the rows from which on the level is ``act``."""
        self.name = name
        self._words = title, meaning, setting
        self._level: Level = level
        self._act_from = act_from_percent
        self._n_rows = 0
        self._counts: Counter[str] = Counter()
        self._shown: list[Shown] = []

    def add(self, example: Example, kinds: Iterable[str], text: str) -> None:
        """Count a row that it holds for.

        Args:
            text: to show, if the row becomes an example.
        """
        self.show(example, self.count(kinds), text)

    def count(self, kinds: Iterable[str]) -> list[str]:
        """Count a row that it holds for; the kinds that still want an example."""
        self._n_rows += 1
        different = list(dict.fromkeys(kinds))
        self._counts.update(different)
        return [kind for kind in different if self._counts[kind] <= _N_EXAMPLES_OF_KIND]

    def show(self, example: Example, kinds: Iterable[str], text: str) -> None:
        """Keep a counted row as an example of each kind."""
        for kind in kinds:
            self._shown.append(Shown(example.example_id, kind, cut(text, _SHOWN_CHARACTERS)))

    def finding(self, of_rows: int, *, sampled: bool = False) -> Finding:
        """What has been gathered, of so many rows looked at."""
        kinds = dict(self._counts.most_common(_N_KINDS))
        order = {kind: place for place, kind in enumerate(kinds)}
        shown = [item for item in self._shown if item.kind in order]
        title, meaning, setting = self._words
        share = 100 * self._n_rows / max(1, of_rows)
        level = "act" if self._act_from is not None and share >= self._act_from else self._level
        return Finding(
            name=self.name,
            level=level,
            title=title,
            meaning=meaning,
            setting=setting,
            n_rows=self._n_rows,
            of_rows=of_rows,
            sampled=sampled,
            kinds=kinds,
            examples=sorted(shown, key=lambda item: order[item.kind])[:_N_SHOWN],
        )
