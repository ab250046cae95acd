"""A section of the report that is a sentence, perhaps a figure, and one table."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """What page and Markdown both print.

    Attributes:
        anchor: of the page; ``title`` its heading, ``short`` its entry in the contents.
        sentence: what the table says.
        head, rows: the table; all cells of numbers but the first column.
        marked, mark: the row that the rest of the report speaks of, if one is, and its tag.
        note: how to read it.
        figure, legend: a drawing, and (class, text) of its lines.
    """

    anchor: str
    title: str
    short: str
    sentence: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    marked: int | None = None
    mark: str = "this run"
    note: str = ""
    figure: Markup | None = None
    legend: list[tuple[str, str]] = field(default_factory=list)
