"""The records of each file format, with faults named by line.

Every reader takes an open binary file and gives (columns declared by the file, records);
the records are read while they are asked for.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from veritune.errors import DataError

_BOM = codecs.BOM_UTF8
_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_LINE_BYTES = _MAX_CSV_FIELD_CHARACTERS = 2**27
# Text compresses ten times, templated rows perhaps fifty; zeros and blanks a thousand times.
_MAX_EXPANSION = 200
_EXPANSION_COUNTS_FROM_BYTES = 2**25
_MAX_EMPTY_LINES = 100_000
_ROWS_PER_BATCH = 1024
_FAULTS_OF_JSON = (ValueError, RecursionError)

Records = tuple[list[str], Iterable[object]]


def json_lines(file: IO[bytes], path: Path) -> Records:
    """One JSON object on each line; blank lines are skipped."""
    return [], _json_lines(_text_lines(file, path), path)


def json_records(file: IO[bytes], path: Path) -> Records:
    """An array, an object with one list, or JSON lines under the wrong name."""
    text = "".join(_text_lines(file, path))
    if not text.strip():
        raise _empty(path)
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except _FAULTS_OF_JSON as error:
        first, _, rest = text.lstrip().partition("\n")
        if rest.strip() and _is_object(first):
            return [], _json_lines(io.StringIO(text), path)
        raise _invalid_json(error, path, 1) from error
    return [], _rows_of(content, path)


def csv_records(file: IO[bytes], path: Path) -> Records:
    """Comma-separated values with a header line."""
    rows = _csv_rows(_text_lines(file, path), path)
    _, header = next(rows, (0, None))
    if header is None:
        raise _empty(path)
    _refuse_repeats(header, path)
    return header, _csv_records(header, rows, path)


def _refuse_repeats(header: list[str], path: Path) -> None:
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        raise DataError(
            "a column name is used twice in the header",
            received=f"{', '.join(map(repr, repeated))} in {path}",
            accepted="a header with one name for each column",
            next_step="rename one of the columns",
        )


def parquet_records(file: IO[bytes], path: Path, wanted: set[str]) -> Records:
    """The rows of a Parquet file; only ``wanted`` columns are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    faults = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        table = pq.ParquetFile(file)
        names = list(table.schema_arrow.names)
    except faults as error:
        raise _damaged(path, error, "Parquet") from error
    _refuse_repeats([name for name in names if name in wanted], path)

    def records() -> Iterator[object]:
        chosen = [name for name in names if name in wanted]
        try:
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=chosen):
                yield from batch.to_pylist()
        except faults as error:
            raise _damaged(path, error, "Parquet") from error

    return names, records()


def _text_lines(file: IO[bytes], path: Path) -> Iterator[str]:
    """Decoded lines with their ends; a byte order mark is skipped."""
    offset = 0
    for line in _binary_lines(file, path):
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


def _binary_lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Lines with their ends; what would fill the memory or never end is refused."""
    is_gzip = path.suffix.lower() == ".gz"
    total = n_empty = 0
    try:
        most = max(_EXPANSION_COUNTS_FROM_BYTES, _MAX_EXPANSION * path.stat().st_size)
        while line := file.readline(_MAX_LINE_BYTES + 1):
            total += len(line)
            n_empty = 0 if len(line) > 2 or line.strip() else n_empty + 1
            if len(line) > _MAX_LINE_BYTES:
                raise _too_large(path, f"a line is longer than {_MAX_LINE_BYTES // 2**20} MiB")
            if n_empty > _MAX_EMPTY_LINES:
                raise _too_large(path, f"there are over {_MAX_EMPTY_LINES:,} empty lines in a row")
            if is_gzip and total > most:
                fault = f"the compressed file expands to over {_MAX_EXPANSION} times its size"
                raise _too_large(path, fault)
            yield line
    except (EOFError, OSError, zlib.error) as error:
        raise _damaged(path, error, "gzip" if is_gzip else "file") from error


def _json_lines(lines: Iterable[str], path: Path) -> Iterator[object]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line, object_pairs_hook=_without_repeats)
        except _FAULTS_OF_JSON as error:
            raise _invalid_json(error, path, number, is_lines=True) from error


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose keys are all different; the last of equal ones would win unseen."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated!r} is given twice in one object")
    return found


def _rows_of(content: object, path: Path) -> list[object]:
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
        received = f"an object with {len(lists)} lists (keys {', '.join(map(repr, content))})"
    else:
        received = f"a single {type(content).__name__}"
    raise DataError(
        "the JSON file is no list of rows",
        received=f"{received} in {path}",
        accepted="an array of objects, an object with exactly one list, or JSON lines",
        next_step='write the rows as [{"instruction": "…", "output": "…"}, …]',
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except _FAULTS_OF_JSON:
        return False


def _csv_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the row's last line, its cells), without blank lines."""
    reader = csv.reader(lines, strict=True)
    former = csv.field_size_limit(_MAX_CSV_FIELD_CHARACTERS)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num} is not valid CSV",
            received=f"{path}: {error}",
            accepted='comma-separated values; cells with quotes, commas or line ends in "…"',
            next_step=f"correct line {reader.line_num}, or the quote that opens before it",
        ) from error
    finally:
        csv.field_size_limit(former)


def _csv_records(
    header: list[str], rows: Iterable[tuple[int, list[str]]], path: Path
) -> Iterator[dict[str, str]]:
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"the row that ends on line {line} has {len(cells)} cells,"
                f" the header has {len(header)}",
                received=path,
                accepted="as many cells in every row as in the header",
                next_step=f"correct line {line}; cells with commas or line ends need quotes",
            )
        yield dict(zip(header, cells, strict=True))


def _invalid_json(
    error: Exception, path: Path, first_line: int, *, is_lines: bool = False
) -> DataError:
    where: str
    if isinstance(error, json.JSONDecodeError):
        line = first_line + error.lineno - 1
        where, what = f"line {line}, column {error.colno}", error.msg
    else:
        where = f"line {first_line}"
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    hint = "; if the file is one JSON array, name it .json" if is_lines else ""
    return DataError(
        f"invalid JSON on {where}: {re.sub(r'[^ -~]', '?', what)}",
        received=path,
        accepted="one JSON object on each line" if is_lines else "a JSON array of objects",
        next_step=f"correct {where}{hint}",
    )


def _empty(path: Path) -> DataError:
    return DataError(
        "the file is empty",
        received=path,
        accepted="at least one row",
        next_step="check how the file was written",
    )


def _too_large(path: Path, fault: str) -> DataError:
    return DataError(
        fault,
        received=path,
        accepted="rows of text",
        next_step="check how the file was written; where it is right, write it without the"
        " compression or the row that is too long",
    )


def _damaged(path: Path, error: Any, what: str) -> DataError:
    return DataError(
        f"the file is cut off, damaged, or no {what} file",
        received=f"{path}: {error or type(error).__name__}",
        accepted=f"a complete {what} file",
        next_step="download or write it again",
    )
