"""The records of each file format, with faults named by line.

Every reader takes an open binary file and gives (columns declared by the file, records);
the records are read while they are asked for.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from veritune.data.text_lines import MAX_LINE_BYTES, damaged, text_lines
from veritune.data.unpacked import check_ratio
from veritune.errors import DataError

_MAX_COLUMNS = 100_000
_ROWS_PER_BATCH = 1024
_FAULTS_OF_JSON = (ValueError, RecursionError)

Records = tuple[list[str], Iterable[object]]


def json_lines(file: IO[bytes], path: Path) -> Records:
    """One JSON object on each line; blank lines are skipped."""
    return [], _json_lines(text_lines(file, path), path)


def json_records(file: IO[bytes], path: Path) -> Records:
    """An array, an object with one list, or JSON lines under the wrong name."""
    text = "".join(text_lines(file, path, in_total=True))
    if not text.strip():
        raise _empty(path)
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except _FAULTS_OF_JSON as error:
        first, _, rest = text.lstrip().partition("\n")
        if rest.strip() and _is_object(first):
            return [], _json_lines(io.StringIO(text), path)
        raise _invalid_json(error, path, 1) from error
    rows = enumerate(_rows_of(content, path), start=1)
    return [], (_checked_names(row, f"row {number}", path) for number, row in rows)


def csv_records(file: IO[bytes], path: Path) -> Records:
    """Comma-separated values with a header line."""
    rows = _csv_rows(text_lines(file, path), path)
    _, header = next(rows, (0, None))
    if header is None:
        raise _empty(path)
    _check_header(header, path)
    return header, _csv_records(header, rows, path)


def parquet_records(
    file: IO[bytes], path: Path, wanted_of: Callable[[list[str]], set[str]]
) -> Records:
    """The rows of a Parquet file; of its columns only those that ``wanted_of`` names are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    faults = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        schema = pq.read_schema(file)
        names = list(schema.names)
        wanted = wanted_of(names)
        _check_header([name for name in names if name in wanted], path)
        chosen = [name for name in names if name in wanted]
        texts = [name for name in chosen if _is_text(schema.field(name).type)]
        file.seek(0)
        # As dictionaries, equal cells are one cell in memory, as they are in the file.
        table = pq.ParquetFile(file, read_dictionary=texts)
        _check_unpacked_size(table.metadata, path)
    except faults as error:
        raise damaged(path, error, "Parquet") from error

    def records() -> Iterator[object]:
        try:
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=chosen):
                columns = [_cells(batch.column(name)) for name in chosen]
                for row in zip(*columns, strict=True) if chosen else [()] * batch.num_rows:
                    yield dict(zip(chosen, row, strict=True))
        except faults as error:
            raise damaged(path, error, "Parquet") from error

    return names, records()


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _cells(column: Any) -> list[Any]:
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    values, places = column.dictionary.to_pylist(), column.indices.to_pylist()
    if any(place is not None and not 0 <= place < len(values) for place in places):
        raise pa.ArrowInvalid("a dictionary lacks a value that a row has")
    return [None if place is None else values[place] for place in places]


def _check_unpacked_size(metadata: Any, path: Path) -> None:
    """Refuse a file whose pages would unpack to far more than text could.

    Its columns are not asked: where they are damaged, that would end the whole process.
    """
    groups = range(metadata.num_row_groups)
    unpacked_bytes = sum(max(0, metadata.row_group(number).total_byte_size) for number in groups)
    check_ratio(path, path.stat().st_size, unpacked_bytes)


def _json_lines(lines: Iterable[str], path: Path) -> Iterator[object]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_object)
        except _FAULTS_OF_JSON as error:
            old_ends = "\r" in line.rstrip("\r\n")
            raise _invalid_json(error, path, number, is_lines=True, old_ends=old_ends) from error
        yield _checked_names(record, f"line {number}", path)


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


class _Repeating(dict[str, Any]):
    """An object in which a name stands twice, of which the last value would win unseen."""

    twice: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    repeating = _Repeating(result)
    repeating.twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
    return repeating


def _checked_names(record: object, where: str, path: Path) -> object:
    if isinstance(record, _Repeating):
        raise DataError(
            f"a name is used twice in the object on {where}",
            received=f"{record.twice!r} in {path}",
            accepted="each name once in an object",
            next_step=f"rename or remove one of the two on {where}",
        )
    return record


def _check_header(header: list[str], path: Path) -> None:
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        raise DataError(
            "a column name is used twice in the header",
            received=f"{', '.join(map(repr, repeated[:5]))} in {path}",
            accepted="a header with one name for each column",
            next_step="rename one of the columns",
        )
    if len(header) > _MAX_COLUMNS:
        raise DataError(
            f"the header has more than {_MAX_COLUMNS:,} columns",
            received=f"{len(header):,} in {path}",
            accepted="a table of questions and answers",
            next_step="check that this is the file you meant",
        )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except _FAULTS_OF_JSON:
        return False


def _csv_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the row's last line, its cells), without blank lines."""
    reader = csv.reader(lines, strict=True)
    former = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num} is not valid CSV",
            received=f"{path}: {error}",
            accepted='comma-separated values; cells with quotes, commas or line ends in "…"',
            next_step="save the file with LF or CRLF as line ends"
            if "new-line character" in str(error)
            else f"correct line {reader.line_num}, or the quote that opens before it",
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
    error: Exception,
    path: Path,
    first_line: int,
    *,
    is_lines: bool = False,
    old_ends: bool = False,
) -> DataError:
    where: str
    if isinstance(error, json.JSONDecodeError):
        line = first_line + error.lineno - 1
        where, what = f"line {line}, column {error.colno}", error.msg
    else:
        where = f"line {first_line}"
        is_deep = isinstance(error, RecursionError)
        what = "nested too deeply" if is_deep else "a number has too many digits"
    hint = "; if the file is one JSON array, name it .json" if is_lines else ""
    if old_ends:
        hint = "; if its lines end in CR alone, convert them to LF"
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
