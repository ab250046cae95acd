"""From a source's records and column names to ``RawRow``.

Null and absent values read as empty text.  Every other value that is not text is refused,
because a number turned into text silently is a different answer.
"""

from __future__ import annotations

import ast
import difflib
import json
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain, islice
from types import NoneType, UnionType
from typing import Any, NamedTuple

from veritune.config import ColumnsSection
from veritune.data.mbpp import IMPORTS, mbpp_columns, with_asserts
from veritune.data.raw_rows import RawRow
from veritune.data.row_store import RowStore, RowWriter
from veritune.errors import DataError
from veritune.progress import Task

_KINDS: tuple[tuple[type | UnionType, str], ...] = (
    (bool, "true/false"),
    (int | float, "a number"),
    (Mapping, "an object"),
    (NoneType, "null"),
    (bytes, "binary data"),
    (str, "a text that is no list"),
)
_BRIEFLY = reprlib.Repr()
_BRIEFLY.maxlevel = 3
_BRIEFLY.maxstring = _BRIEFLY.maxother = 200
_REQUIRED = ("instruction", "output")
_TEXTS = ("instruction", "input", "output", "test_setup", "entry_point")
_N_COMPARED = 1000
_NO_ROWS_STEP = "check that this is the file or data set you meant"


class Table(NamedTuple):
    """What a source holds.

    Attributes:
        columns: in order of first appearance.
        notices: what the user should know.
        left_out: reason and number of rows that were read and not kept.
    """

    rows: RowStore
    columns: list[str]
    notices: list[str]
    left_out: dict[str, int]


def rows_from(
    records: Iterable[object],
    columns: ColumnsSection,
    *,
    name: str,
    max_rows: int | None,
    task: Task,
    max_characters: int | None = None,
    known_columns: Iterable[str] = (),
) -> Table:
    """Map records to rows; the columns of MBPP are recognised where those asked for are absent.

    Args:
        records: one mapping from column name to value for each row.
        name: the source as the user knows it, for errors.
        max_characters: rows whose texts together are longer are counted and left out.
        known_columns: columns declared by the file itself, even if it has no rows.

    Raises:
        DataError: there are no rows, a column is missing, a record is not an object, or a
            value is not text.
    """
    found = dict.fromkeys(known_columns)
    records = iter(records)
    first = list(islice(records, 1))
    mbpp = mbpp_columns(columns, found or _names_in(first))
    columns = mbpp or columns
    if found:
        _check_columns(columns, list(found), name)
    names = named_columns(columns)
    rows = RowWriter()
    n_too_long = 0
    for number, record in enumerate(islice(chain(first, records), max_rows), start=1):
        if not isinstance(record, Mapping):
            raise DataError(
                f"row {number} is not an object with named columns",
                received=f"{_kind(record)} in {name}",
                accepted='one object for each row, such as {"instruction": "…", "output": "…"}',
                next_step=f"correct row {number} of {name}",
            )
        found.update(dict.fromkeys(map(str, record)))
        task.advance()
        if max_characters is not None and _n_characters(record, names) > max_characters:
            n_too_long += 1
            continue
        row = _row(record, names, number, name)
        rows.add(_asserted(row, record, number, name) if mbpp else row)
    if not len(rows) and n_too_long:
        raise DataError(
            f"no row has at most {max_characters:,} characters",
            received=f"{n_too_long} longer rows in {name}",
            accepted="at least one row that is not longer",
            next_step="raise data.max_row_characters, or check that this is the file you meant",
        )
    if not len(rows):
        raise DataError(
            "there are no rows in it",
            received=name,
            accepted="at least one row",
            next_step=_NO_ROWS_STEP,
        )
    _check_columns(columns, list(found), name)
    left_out = {f"longer than {max_characters:,} characters": n_too_long} if n_too_long else {}
    return Table(rows.finish(), list(found), [_mbpp_notice(columns)] if mbpp else [], left_out)


def wanted_columns(columns: ColumnsSection, known: Iterable[str]) -> set[str]:
    """The columns to read of a source that has the known ones."""
    mbpp = mbpp_columns(columns, set(known))
    return set(named_columns(mbpp or columns).values()) | ({IMPORTS} if mbpp else set())


def named_columns(columns: ColumnsSection) -> dict[str, str]:
    """Which source column each field comes from; fields set to null are left out."""
    return {field: name for field, name in columns.model_dump().items() if name is not None}


def _names_in(records: list[object]) -> list[str]:
    return [str(name) for record in records if isinstance(record, Mapping) for name in record]


def _asserted(row: RawRow, record: Mapping[str, Any], number: int, name: str) -> RawRow:
    """MBPP's row with its asserts in the question and its imports before them."""
    imports = _tests(record.get(IMPORTS), number, IMPORTS, name)
    setup = "\n".join([*imports, row.test_setup]) if imports else row.test_setup
    return replace(row, instruction=with_asserts(row.instruction, row.tests), test_setup=setup)


def _mbpp_notice(columns: ColumnsSection) -> str:
    names = ", ".join(named_columns(columns).values())
    return f"read in the format of MBPP (columns {names}); each question shows its asserts"


def _check_columns(columns: ColumnsSection, found: list[str], name: str) -> None:
    """Refuse missing columns; the optional ones only where the recipe renames them."""
    for field, wanted in named_columns(columns).items():
        is_default = wanted == ColumnsSection.model_fields[field].default
        if wanted in found or (is_default and field not in _REQUIRED):
            continue
        some = found[:_N_COMPARED]
        nearest = difflib.get_close_matches(wanted, some, n=1, cutoff=0.5)
        nearest = nearest or [item for item in found if item.lower() == wanted.lower()]
        advice = f"the nearest is {nearest[0]!r}: set" if nearest else "set"
        raise DataError(
            f"{name} has no column {wanted!r}",
            received=f"columns {', '.join(map(repr, some)) or '(none)'}",
            accepted=f"the name of one of these columns as data.columns.{field}",
            next_step=f"{advice} data.columns.{field}={nearest[0] if nearest else 'COLUMN'}",
        )


def _n_characters(record: Mapping[str, Any], names: Mapping[str, str]) -> int:
    total = 0
    for name in names.values():
        value = record.get(name)
        texts = value if isinstance(value, list) else [value]
        total += sum(len(text) for text in texts if isinstance(text, str))
    return total


def _row(record: Mapping[str, Any], names: Mapping[str, str], number: int, name: str) -> RawRow:
    texts = {}
    for field in _TEXTS:
        value = record.get(names[field]) if field in names else None
        if value is not None and not isinstance(value, str):
            raise _not_text(value, number, names[field], name, "text or null")
        texts[field] = value or ""
    tests = record.get(names["tests"]) if "tests" in names else None
    return RawRow(
        **texts,
        tests=_tests(tests, number, names.get("tests", ""), name),
        source=f"row {number}",
    )


def _tests(value: object, number: int, column: str, name: str) -> tuple[str, ...]:
    """Tests from a list of texts, such a list written as JSON or Python, or one text."""
    accepted = "a list of texts, the same as a JSON text, one test as text, or null"
    if value is None:
        return ()
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return (value,) if value.strip() else ()
        value = _list_in(value)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _not_text(value, number, column, name, accepted)
    return tuple(item for item in value if item.strip())


def _list_in(text: str) -> object:
    """A list written as JSON, or as Python writes one; None if it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _not_text(value: object, number: int, column: str, name: str, accepted: str) -> DataError:
    return DataError(
        f"row {number}, column {column!r} holds {_kind(value)}",
        received=_BRIEFLY.repr(value),
        accepted=accepted,
        next_step=f"correct row {number} of {name}, or name another column",
    )


def _kind(value: object) -> str:
    if isinstance(value, list | tuple):
        others = [item for item in value if not isinstance(item, str)][:1]
        if others and isinstance(others[0], list | tuple):
            return "a list with lists"
        inside = _kind(others[0]) if others else "texts"
        return f"a list with {inside}" if value else "an empty list"
    words = (word for kind, word in _KINDS if isinstance(value, kind))
    return next(words, f"a {type(value).__name__}")
