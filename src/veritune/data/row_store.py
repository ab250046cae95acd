"""Rows as Arrow columns: in memory while they are few, in a file mapped into memory beyond.

A million rows as Python objects take gigabytes.  Here a row becomes an object only while
somebody looks at it, and a selection of rows is a list of places, never a copy of their text.
Texts are kept as bytes, since rows may hold lone surrogates until cleaning drops them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from veritune.data.raw_rows import RawRow
from veritune.data.spill import BatchFile

Array = np.ndarray[Any, Any]

BATCH_ROWS = 2048
_BATCH_BYTES = 16 << 20
TEXTS = ("instruction", "input", "output", "test_setup", "entry_point", "source", "group")
SCHEMA = pa.schema(
    [*((name, pa.large_binary()) for name in TEXTS), ("tests", pa.large_list(pa.large_binary()))]
)


class RowStore(Sequence[RawRow]):
    """Rows that live in Arrow batches; equal to any sequence of the same rows.

    Args:
        batches: with at least the columns of ``SCHEMA``.
        places: the rows to show, as places in the batches' rows; all if None.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch], places: Array | None = None) -> None:
        self._batches = list(batches)
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)
        total = int(self._ends[-1]) if len(self._ends) else 0
        self._places = np.arange(total, dtype=np.int64) if places is None else places

    @classmethod
    def of(cls, rows: Sequence[RawRow]) -> RowStore:
        """Any rows as a store; a store is itself."""
        if isinstance(rows, RowStore):
            return rows
        writer = RowWriter()
        for row in rows:
            writer.add(row)
        return writer.finish()

    @classmethod
    def joined(cls, stores: Sequence[RowStore]) -> RowStore:
        """The rows of several stores, one after the other."""
        if len(stores) == 1:
            return stores[0]
        batches, places, before = [], [np.empty(0, dtype=np.int64)], 0
        for store in stores:
            batches += store._batches
            places.append(store._places + before)
            before += int(store._ends[-1]) if len(store._ends) else 0
        return cls(batches, np.concatenate(places))

    def take(self, places: Array | Sequence[int]) -> RowStore:
        """The rows at some places, in that order."""
        return RowStore(self._batches, self._places[np.asarray(places, dtype=np.int64)])

    def batches(self, n_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """The rows in order as batches of at most ``n_rows``, and of about 16 MiB at most."""
        row_bytes = np.asarray([batch.nbytes // max(1, len(batch)) for batch in self._batches])
        start = 0
        while start < len(self):
            places = self._places[start : start + n_rows]
            owners = np.searchsorted(self._ends, places, side="right")
            fitting = np.searchsorted(np.cumsum(row_bytes[owners]), _BATCH_BYTES, side="right")
            places = places[: max(1, int(fitting))]
            yield self._gathered(places)
            start += len(places)

    def groups(self) -> list[str]:
        """The group of each row."""
        return [name for batch in self.batches() for name in _texts(batch.column("group"))]

    def with_tests(self) -> list[bool]:
        """Whether each row carries tests."""
        return [
            bool(n)
            for batch in self.batches()
            for n in pc.list_value_length(batch.column("tests")).to_pylist()
        ]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> RawRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[RawRow]: ...
    def __getitem__(self, place: int | slice) -> RawRow | list[RawRow]:
        """One row, or a list of some."""
        if isinstance(place, slice):
            chosen = self._places[place]
            return rows_of(self._gathered(chosen)) if len(chosen) else []
        return rows_of(self._gathered(self._places[[place]]))[0]

    def __iter__(self) -> Iterator[RawRow]:
        for batch in self.batches():
            yield from rows_of(batch)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"RowStore({len(self)} rows: {shown}{', …' if len(self) > 3 else ''})"

    def _gathered(self, places: Array) -> pa.RecordBatch:
        """One batch of the rows at places of the whole store."""
        owners = np.searchsorted(self._ends, places, side="right")
        cuts = np.flatnonzero(owners[1:] != owners[:-1]) + 1
        parts = []
        for start, end in zip([0, *cuts], [*cuts, len(places)], strict=True):
            owner = int(owners[start])
            batch = self._batches[owner]
            inside = places[start:end] - (int(self._ends[owner]) - batch.num_rows)
            if int(inside[-1]) - int(inside[0]) == len(inside) - 1 and (np.diff(inside) == 1).all():
                parts.append(batch.slice(int(inside[0]), len(inside)))
            else:
                parts.append(batch.take(pa.array(inside)))
        return parts[0] if len(parts) == 1 else pa.concat_batches(parts)


class RowWriter:
    """Collects rows for a store."""

    def __init__(self) -> None:
        self._rows: list[RawRow] = []
        self._n_characters = 0
        self._file = BatchFile()

    def __len__(self) -> int:
        return len(self._rows) + self._file.num_rows

    def add(self, row: RawRow) -> None:
        """Put one more row at the end."""
        self._rows.append(row)
        self._n_characters += len(row.output) + len(row.instruction)
        if len(self._rows) == BATCH_ROWS or self._n_characters > _BATCH_BYTES >> 2:
            self._flush()

    def finish(self) -> RowStore:
        """All rows added."""
        if self._rows:
            self._flush()
        return RowStore(self._file.finish())

    def _flush(self) -> None:
        self._file.append(batch_of(self._rows))
        self._rows, self._n_characters = [], 0


def batch_of(rows: Sequence[RawRow]) -> pa.RecordBatch:
    """Rows as one Arrow batch."""
    columns = [_bytes(getattr(row, name) for row in rows) for name in TEXTS]
    tests = [[test.encode("utf-8", "surrogatepass") for test in row.tests] for row in rows]
    return pa.RecordBatch.from_arrays(
        [*columns, pa.array(tests, type=SCHEMA.field("tests").type)], schema=SCHEMA
    )


def rows_of(batch: pa.RecordBatch) -> list[RawRow]:
    """The rows of a batch as objects."""
    texts = {name: _texts(batch.column(name)) for name in TEXTS}
    lists = batch.column("tests")
    tests: Iterable[tuple[str, ...]]
    if len(lists.flatten()):
        tests = [
            tuple(test.decode("utf-8", "surrogatepass") for test in some)
            for some in lists.to_pylist()
        ]
    else:
        tests = [()] * batch.num_rows
    return [
        RawRow(instruction, given, output, own_tests, test_setup, entry_point, source, group)
        for instruction, given, output, test_setup, entry_point, source, group, own_tests in zip(
            *(texts[name] for name in TEXTS), tests, strict=True
        )
    ]


def _bytes(texts: Iterable[str]) -> pa.Array:
    cells = [text.encode("utf-8", "surrogatepass") for text in texts]
    return pa.array(cells, type=pa.large_binary())


def _texts(column: pa.Array) -> list[str]:
    cells = column.to_numpy(zero_copy_only=False)
    return [cell.decode("utf-8", "surrogatepass") for cell in cells]
