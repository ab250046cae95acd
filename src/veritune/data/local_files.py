"""Read rows from a .json, .jsonl, .csv (each also .gz) or .parquet file."""

from __future__ import annotations

import difflib
import gzip
import hashlib
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

from veritune.config import DataSection
from veritune.data.columns import named_columns, rows_from
from veritune.data.raw_rows import RawRows
from veritune.data.records import Records, csv_records, json_lines, json_records, parquet_records
from veritune.data.source_kind import SUFFIXES, local_path, suffix_of
from veritune.errors import DataError
from veritune.progress import Reporter

_READERS = {".json": json_records, ".jsonl": json_lines, ".csv": csv_records}


def read_file(section: DataSection, reporter: Reporter) -> RawRows:
    """Read a local file's rows.

    Raises:
        DataError: the file is missing, empty, damaged or of another format, or its columns or
            values are at fault.
    """
    path = local_path(section.source)
    suffix = _checked_suffix(path)
    with _opened(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with _opened(path) as file, reporter.task(f"read {path.name}", section.max_rows) as task:
        if suffix == ".parquet":
            known, records = parquet_records(
                file, path, set(named_columns(section.columns).values())
            )
        else:
            known, records = _text_records(file, path, suffix)
        rows, columns = rows_from(
            records,
            section.columns,
            name=str(path),
            max_rows=section.max_rows,
            task=task,
            known_columns=known,
        )
    notices = []
    if section.revision is not None:
        notices.append(f"data.revision {section.revision!r} is ignored: {path} is a local file")
    return RawRows(
        rows,
        {
            "kind": "file",
            "name": str(path),
            "revision": None,
            "sha256": sha256,
            "licence": None,
            "columns": columns,
            "rows_read": len(rows),
            "notices": notices,
        },
    )


def _text_records(file: IO[bytes], path: Path, suffix: str) -> Records:
    if suffix.endswith(".gz"):
        file = cast(IO[bytes], gzip.GzipFile(fileobj=file))
    return _READERS[suffix.removesuffix(".gz")](file, path)


def _checked_suffix(path: Path) -> str:
    try:
        is_file, is_folder, exists = path.is_file(), path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise DataError(
            "this is no usable path", received=f"{path!r}: {error}", accepted="a path of a file"
        ) from error
    if not exists:
        raise _missing(path)
    if is_folder:
        inside = sorted(item.name for item in path.iterdir() if suffix_of(item))
        raise DataError(
            "the data source is a folder, not a file",
            received=path,
            accepted=f"one file ending in {', '.join(SUFFIXES)}",
            next_step=f"name one of its files: {', '.join(inside[:5])}"
            if inside
            else "name a data file, or code:PATH if the folder holds Python code",
        )
    suffix = suffix_of(path)
    if suffix is None or not is_file:
        raise DataError(
            "the data source is not a data file that can be read",
            received=path,
            accepted=f"a file ending in {', '.join(SUFFIXES)}",
            next_step="convert it to one of these formats, or correct its name",
        )
    return suffix


def _missing(path: Path) -> DataError:
    if path.is_symlink():
        return DataError(
            "the link leads to no file",
            received=f"{path} -> {path.readlink()}",
            accepted="an existing file, or a link to one",
            next_step="put the file where the link leads, or name the file itself",
        )
    folder = path.parent
    if not folder.is_dir():
        return DataError(
            "there is no such file, nor its folder",
            received=path,
            accepted="an existing file (a recipe's paths start at its folder, --set's at yours)",
            next_step=f"check the folder {folder}",
        )
    names = sorted(i.name for i in folder.iterdir() if i.is_file() and suffix_of(i))
    similar = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:3]
    return DataError(
        "there is no such file",
        received=path,
        accepted="an existing file (a recipe's paths start at its folder, --set's at yours)",
        next_step=f"did you mean {' or '.join(similar)}?"
        if similar
        else f"put the file into {folder}, or correct the path",
    )


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"the file cannot be opened: {error.strerror}",
            received=path,
            accepted="a file that this user may read",
            next_step="change its permissions, or name another file",
        ) from error
