"""Validation and test rows that the user brings as sources of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from veritune.config import DataSection
from veritune.data.raw_rows import RawRows
from veritune.data.row_store import RowStore
from veritune.data.source_kind import kind_of_source, split_of_hub_id
from veritune.data.sources import read_rows
from veritune.data.steps import StepCount
from veritune.errors import DataError
from veritune.progress import Reporter
from veritune.rows import Split

Given = Literal["validation", "test"]
GIVEN: tuple[Given, ...] = ("validation", "test")


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one source.

    Attributes:
        home: the split that they are given for; None for ``data.source``.
    """

    home: Split | None
    raw: RawRows


def sections(section: DataSection) -> Iterator[tuple[Split | None, DataSection]]:
    """What to read for ``data.source`` and for each split that has a source of its own.

    ``max_rows`` holds for ``data.source`` alone.
    """
    yield None, section
    for split in GIVEN:
        source = getattr(section, f"{split}_source")
        if source is None:
            continue
        source, hub_split = split_of_hub_id(source)
        is_same = source == section.source
        if hub_split is None:
            hub_split = split if is_same else section.hub_split
        update = {
            "source": source,
            "hub_split": hub_split,
            "revision": section.revision if is_same else None,
            "max_rows": None,
        }
        yield split, section.model_copy(update=update)


def read_parts(section: DataSection, reporter: Reporter) -> list[Part]:
    """Read ``data.source`` and what is given for validation and test.

    Raises:
        DataError: a source is at fault, or two of them are the same rows.
        EnvironmentFault: the hub cannot be reached.
    """
    wanted = list(sections(section))
    seen: dict[tuple[str, str], str] = {}
    for home, part in wanted:
        name = f"data.{home}_source" if home else "data.source"
        key = (part.source, part.hub_split if kind_of_source(part.source) == "hub" else "")
        if key in seen:
            raise DataError(
                f"{name} and {seen[key]} are the same rows",
                received=part.source,
                accepted="sources of their own for training, validation and test",
                next_step=f"name another source as {name}, or leave it out: data.split divides",
            )
        seen[key] = name
    return [Part(home, read_rows(part, reporter)) for home, part in wanted]


def joined(parts: list[Part]) -> RawRows:
    """All rows as one source; the origins of given splits go to ``origin["given_splits"]``."""
    if len(parts) == 1:
        return parts[0].raw
    rows = RowStore.joined([RowStore.of(part.raw.rows) for part in parts])
    origin: dict[str, Any] = dict(parts[0].raw.origin)
    origin["given_splits"] = {part.home: part.raw.origin for part in parts[1:]}
    origin["notices"] = list(
        dict.fromkeys(notice for part in parts for notice in part.raw.origin.get("notices", []))
    )
    return RawRows(rows, origin)


def added(counts: list[list[StepCount]]) -> list[StepCount]:
    """The same steps done to several parts, as one list."""
    return [
        StepCount(
            same[0].name,
            same[0].description,
            same[0].enabled,
            sum(step.changed for step in same),
            sum(step.dropped for step in same),
            sum(step.rows_after for step in same),
        )
        for same in zip(*counts, strict=True)
    ]
