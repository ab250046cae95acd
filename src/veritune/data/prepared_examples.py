"""The examples that came out of preparation, made from the stored rows when looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from veritune.data.raw_rows import RawRow
from veritune.data.row_store import RowStore
from veritune.rows import Example, Split

Array = np.ndarray[Any, Any]


class PreparedExamples(Sequence[Example]):
    """Rows with their ids, clusters and splits; equal to any sequence of the same examples.

    Args:
        rows, names, cluster_ids, splits: one of each for every row.
    """

    def __init__(
        self,
        rows: RowStore,
        names: Sequence[str],
        cluster_ids: Sequence[str],
        splits: Sequence[Split],
    ) -> None:
        self._rows = rows
        self._names, self._cluster_ids, self._splits = names, cluster_ids, splits

    def of_split(self, split: Split) -> PreparedExamples:
        """The examples of one split, in order."""
        places = [place for place, name in enumerate(self._splits) if name == split]
        return PreparedExamples(
            self._rows.take(places),
            [self._names[place] for place in places],
            [self._cluster_ids[place] for place in places],
            [split] * len(places),
        )

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        """One example, or a list of some."""
        if isinstance(place, slice):
            numbers = range(*place.indices(len(self)))
            return [
                self._example(row, number)
                for row, number in zip(self._rows[place], numbers, strict=True)
            ]
        number = range(len(self))[place]
        return self._example(self._rows[number], number)

    def __iter__(self) -> Iterator[Example]:
        for number, row in enumerate(self._rows):
            yield self._example(row, number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PreparedExamples({len(self)} examples)"

    def _example(self, row: RawRow, number: int) -> Example:
        return Example(
            example_id=self._names[number],
            cluster_id=self._cluster_ids[number],
            split=self._splits[number],
            instruction=row.instruction,
            input=row.input,
            reference=row.output,
            tests=row.tests,
            test_setup=row.test_setup,
            entry_point=row.entry_point,
            source=row.source,
        )
