"""What grows with the data set: in memory while it is small, in a temporary file beyond.

The files have no name: they are gone when the last user of their content is, whatever ends
the program.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, Any]

_IN_MEMORY_BYTES = 64 << 20


class BatchFile:
    """Record batches of one schema, written as they come and then mapped."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._waiting: list[pa.RecordBatch] = []
        self._n_bytes = 0
        self._path: Path | None = None
        self._writer: Any = None

    def append(self, batch: pa.RecordBatch) -> None:
        """Add a batch at the end."""
        self.num_rows += batch.num_rows
        self._n_bytes += batch.get_total_buffer_size()
        self._waiting.append(batch)
        if self._n_bytes > _IN_MEMORY_BYTES:
            self._write()

    def finish(self) -> list[pa.RecordBatch]:
        """All batches; those in the file are mapped, and read when they are looked at."""
        if self._path is None:
            return self._waiting
        self._write()
        self._writer.close()
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
            return [reader.get_batch(place) for place in range(reader.num_record_batches)]
        finally:
            self._path.unlink()

    def _write(self) -> None:
        if self._path is None:
            handle, name = tempfile.mkstemp(prefix="veritune-", suffix=".arrow")
            os.close(handle)
            self._path = Path(name)
            self._writer = pa.ipc.new_file(str(self._path), self._waiting[0].schema)
        for batch in self._waiting:
            self._writer.write_batch(batch)
        self._waiting = []

    def __del__(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class GrowingArray:
    """A flat array whose length is not known before its end."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._waiting: list[Array] = []
        self._n_bytes = 0
        self._file: IO[bytes] | None = None

    def append(self, values: Array) -> None:
        """Add values at the end."""
        values = np.ascontiguousarray(values, dtype=self._dtype)
        self._n_bytes += values.nbytes
        self._waiting.append(values)
        if self._n_bytes > _IN_MEMORY_BYTES:
            self._write()

    def finish(self) -> Array:
        """All values: an array, or the map of a file."""
        if self._file is None:
            return np.concatenate([np.empty(0, dtype=self._dtype), *self._waiting])
        self._write()
        with self._file as file:  # which has no name: the map alone keeps it alive
            file.flush()
            return np.memmap(file, dtype=self._dtype, mode="r")

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="veritune-")  # noqa: SIM115
        for values in self._waiting:
            values.tofile(self._file)
        self._waiting = []
