"""The bytes inside a gzip file, as long as they are not far more than text could give."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO, Any, cast

from veritune.errors import DataError

# Text packs to a fifth or a tenth of its size, rows that repeat each other to a fortieth; zeros
# and blank lines, which fill memory or keep a reader busy for hours, to a thousandth.
MAX_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 64 << 20


def unpacked(file: IO[bytes], path: Path) -> IO[bytes]:
    """Read what an open gzip file holds.

    Reading raises ``DataError`` beyond 64 MiB and ``MAX_RATIO`` times the packed size.
    """
    inside = cast(IO[bytes], gzip.GzipFile(fileobj=file))
    return cast(IO[bytes], io.BufferedReader(_Limited(inside, path), 1 << 17))


def check_ratio(path: Path, packed_bytes: int, unpacked_bytes: int) -> None:
    """Raise ``DataError`` beyond 64 MiB and ``MAX_RATIO`` times the packed size."""
    limit = max(_ALWAYS_ALLOWED_BYTES, MAX_RATIO * packed_bytes)
    if unpacked_bytes > limit:
        raise DataError(
            f"the file unpacks to more than {MAX_RATIO} times its size",
            received=f"{path}: {packed_bytes:,} bytes packed, more than {limit:,} unpacked",
            accepted="packed text, which is rarely over 20 times smaller",
            next_step="look into it; if it is what you want, unpack it with gunzip, or write it"
            " as JSON lines, and name that file",
        )


class _Limited(io.RawIOBase):
    def __init__(self, inside: IO[bytes], path: Path) -> None:
        self._inside = inside
        self._path = path
        self._packed_bytes = path.stat().st_size
        self._n_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._inside.read(len(buffer))
        buffer[: len(part)] = part
        self._n_bytes += len(part)
        check_ratio(self._path, self._packed_bytes, self._n_bytes)
        return len(part)
