"""Read rows from a .json, .jsonl, .csv (each also .gz) or .parquet file."""

from __future__ import annotations

import difflib
import hashlib
from io import BufferedReader
from pathlib import Path
from typing import IO

from veritune.config import DataSection
from veritune.data.columns import rows_from, wanted_columns
from veritune.data.raw_rows import RawRows
from veritune.data.records import Records, csv_records, json_lines, json_records, parquet_records
from veritune.data.source_kind import SUFFIXES, local_path, suffix_of
from veritune.data.unpacked import unpacked
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
    suffix = checked_suffix(path)
    with opened(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with opened(path) as file, reporter.task(f"read {path.name}", section.max_rows) as task:
        if suffix == ".parquet":
            known, records = parquet_records(
                file, path, lambda names: wanted_columns(section.columns, names)
            )
        else:
            known, records = text_records(file, path, suffix)
        table = rows_from(
            records,
            section.columns,
            name=str(path),
            max_rows=section.max_rows,
            max_characters=section.max_row_characters,
            task=task,
            known_columns=known,
        )
    notices = list(table.notices)
    if section.revision is not None:
        notices.append(f"data.revision {section.revision!r} is ignored: {path} is a local file")
    return RawRows(
        table.rows,
        {
            "kind": "file",
            "name": str(path),
            "revision": None,
            "sha256": sha256,
            "licence": None,
            "columns": table.columns,
            "rows_read": len(table.rows),
            "left_out": table.left_out,
            "notices": notices,
        },
    )


def text_records(file: IO[bytes], path: Path, suffix: str) -> Records:
    """(columns declared by the file, records) of an open .json, .jsonl or .csv file."""
    if suffix.endswith(".gz"):
        file = unpacked(file, path)
    return _READERS[suffix.removesuffix(".gz")](file, path)


def checked_suffix(path: Path) -> str:
    """The ending of an existing data file.

    Raises:
        DataError: there is no such file, or it is no data file.
    """
    try:
        is_file, is_folder, exists = path.is_file(), path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise DataError(
            "this is no usable path", received=f"{path!r}: {error}", accepted="a path of a file"
        ) from error
    if not exists:
        raise _dangling(path) if path.is_symlink() else _missing(path)
    if is_folder:
        inside = _data_files(path)
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


def _data_files(folder: Path) -> list[str]:
    """Names of a folder's data files; none where it may not be looked into."""
    try:
        return sorted(item.name for item in folder.iterdir() if suffix_of(item) and item.is_file())
    except OSError:
        return []


def _dangling(path: Path) -> DataError:
    return DataError(
        "the data source is a link that leads nowhere",
        received=path,
        accepted="a link to an existing file",
        next_step="correct the link, or name the file itself",
    )


def _missing(path: Path) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError(
            "there is no such file, nor its folder",
            received=path,
            accepted="an existing file (a recipe's paths start at its folder, --set's at yours)",
            next_step=f"check the folder {folder}",
        )
    names = _data_files(folder)
    similar = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:3]
    return DataError(
        "there is no such file",
        received=path,
        accepted="an existing file (a recipe's paths start at its folder, --set's at yours)",
        next_step=f"did you mean {' or '.join(similar)}?"
        if similar
        else f"put the file into {folder}, or correct the path",
    )


def opened(path: Path) -> BufferedReader:
    """Open a data file for reading.

    Raises:
        DataError: this user may not read it.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"the file cannot be opened: {error.strerror}",
            received=path,
            accepted="a file that this user may read",
            next_step="change its permissions, or name another file",
        ) from error
