"""A file's lines as text, none of them larger than memory can bear."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from veritune.errors import DataError

_BOM = codecs.BOM_UTF8
_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Bounds of what is held in memory at once; a line may be one long cell, or a bomb.
MAX_LINE_BYTES = 128 << 20
_MAX_JSON_BYTES = 1 << 30
_MAX_BLANK_LINES = 1_000_000


def text_lines(file: IO[bytes], path: Path, *, in_total: bool = False) -> Iterator[str]:
    """Decoded lines with their ends; a byte order mark is skipped.

    Args:
        in_total: the caller keeps all lines: their sum is bounded, not each of them.
    """
    offset = 0
    for line in _binary_lines(file, path, in_total=in_total):
        skipped = len(_BOM) if offset == 0 and line.startswith(_BOM) else 0
        try:
            yield line[skipped:].decode("utf-8")
        except UnicodeDecodeError as error:
            at = offset + skipped + error.start
            is_utf16 = offset == 0 and line.startswith(_UTF16_BOMS)
            raise DataError(
                "the file is UTF-16, not UTF-8" if is_utf16 else "the file is not valid UTF-8",
                received=f"{path}: byte {line[skipped + error.start]:#04x} at offset {at}",
                accepted="text in UTF-8",
                next_step="save the file as UTF-8, or convert it with iconv",
            ) from error
        offset += len(line)


def _binary_lines(file: IO[bytes], path: Path, *, in_total: bool) -> Iterator[bytes]:
    left = _MAX_JSON_BYTES if in_total else MAX_LINE_BYTES
    number = n_blank = 0
    try:
        while line := file.readline(left + 1):
            number += 1
            if len(line) > left:
                raise _too_large(path, number, in_total=in_total)
            left -= len(line) if in_total else 0
            n_blank += len(line) < 3 and not line.strip()
            if n_blank > _MAX_BLANK_LINES:
                raise _blank(path)
            yield line
    except (EOFError, OSError, zlib.error) as error:
        raise damaged(path, error, "gzip" if path.suffix.lower() == ".gz" else "file") from error


def _too_large(path: Path, number: int, *, in_total: bool) -> DataError:
    if in_total:
        return DataError(
            f"the JSON file has more than {_MAX_JSON_BYTES >> 20} MiB, and must be read as a whole",
            received=path,
            accepted="larger files as JSON lines or Parquet, which are read row by row",
            next_step="write one object on each line, and name the file .jsonl",
        )
    return DataError(
        f"line {number} has more than {MAX_LINE_BYTES >> 20} MiB",
        received=path,
        accepted="shorter lines",
        next_step="check that this is the file you meant, and that its line ends are LF or CRLF",
    )


def _blank(path: Path) -> DataError:
    return DataError(
        f"more than {_MAX_BLANK_LINES:,} lines are blank",
        received=path,
        accepted="a row on most lines",
        next_step="check that this is the file you meant",
    )


def damaged(path: Path, error: Any, what: str) -> DataError:
    """The fault of a file whose bytes are not what its ending promises."""
    return DataError(
        f"the file is cut off, damaged, or no {what} file",
        received=f"{path}: {error or type(error).__name__}",
        accepted=f"a complete {what} file",
        next_step="download or write it again",
    )
