"""The cleaning steps, in the order of ``CleanSection``, each counted.

All steps but the one that drops duplicates look at a single row.  They run on batches of rows,
in several processes where there are many, and on each of several identical rows once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from veritune.config import CleanSection
from veritune.data.fences import drop_language_line, unfence
from veritune.data.raw_rows import RawRow
from veritune.data.row_keys import ALL_BUT_SOURCE, TEXTS, first_of_equals, row_keys
from veritune.data.row_store import SCHEMA, RowStore, batch_of, rows_of
from veritune.data.source_text import normalise_code, normalise_prose, remove_comments
from veritune.data.spill import BatchFile
from veritune.data.steps import StepCount
from veritune.data.syntax import parse_failure
from veritune.data.workers import Workers
from veritune.progress import Reporter, Silent

Array = np.ndarray[Any, Any]

_ALWAYS = "drop_unstorable"
_ALWAYS_DESCRIPTION = (
    "drop rows with NUL characters or lone surrogates, which no Python file can hold"
)
_DUPLICATES = "drop_exact_duplicates"
_STAYS = -1

RowStep = Callable[[RawRow], RawRow | None]


def clean(
    rows: Sequence[RawRow],
    section: CleanSection,
    *,
    ignore_input: bool = False,
    workers: Workers | None = None,
    reporter: Reporter | None = None,
) -> tuple[RowStore, list[StepCount]]:
    """Apply every step that is enabled; the others are listed too, with zero counts.

    Before them all, rows whose text could not be written to a file are dropped.

    Args:
        ignore_input: rows lose their input first.
        workers: share the work.
    """
    rows, workers = RowStore.of(rows), workers or Workers(1)
    drops_duplicates = section.drop_exact_duplicates
    first = group = np.arange(len(rows))
    if drops_duplicates:
        first, group = first_of_equals(row_keys(rows, ALL_BUT_SOURCE))
    settings = {"clean": section.model_dump(), "ignore_input": ignore_input}
    cleaned = BatchFile()
    dropped_at, changed = [], []
    distinct = rows.take(first)
    with (reporter or Silent()).task("clean the rows", len(rows)) as task:
        for batch in workers.map(
            f"{__name__}:cleaner", settings, distinct.batches(), len(distinct)
        ):
            dropped_at.append(batch.column("dropped_at").to_numpy())
            changed.append(batch.column("changed").to_numpy())
            cleaned.append(batch.select(SCHEMA.names))
            task.advance(batch.num_rows * len(rows) / max(1, len(distinct)))
    store = RowStore(cleaned.finish())
    if not len(rows):
        return store, _counted(np.empty(0, int), np.empty(0, int), section)
    outcome, changes = np.concatenate(dropped_at)[group], np.concatenate(changed)[group]
    names = [name for name, _ in _steps()]
    if drops_duplicates:
        step = names.index(_DUPLICATES)
        reaches = np.flatnonzero((outcome == _STAYS) | (outcome > step))
        texts = row_keys(store, TEXTS)[group[reaches]]
        outcome[np.delete(reaches, first_of_equals(texts)[0])] = step
    kept = np.flatnonzero(outcome == _STAYS)
    return store.take(group[kept]), _counted(outcome, changes, section)


def cleaner(clean: dict[str, Any], *, ignore_input: bool) -> Callable[[pa.RecordBatch], Any]:
    """The work on one batch: its rows as they are when dropped or done, and what was done.

    ``dropped_at`` is the number of the step that drops a row, ``changed`` has a bit for each
    step that changed it.
    """
    section = CleanSection(**clean)
    steps = [
        (number, _STEPS[name])
        for number, (name, _) in enumerate(_steps())
        if name != _DUPLICATES and (name == _ALWAYS or getattr(section, name))
    ]

    def work(batch: pa.RecordBatch) -> pa.RecordBatch:
        rows, dropped_at, changed = [], [], []
        for given in rows_of(batch):
            row = replace(given, input="") if ignore_input else given
            bits, dropped = 0, _STAYS
            for number, step in steps:
                after = step(row)
                if after is None:
                    dropped = number
                    break
                if after is not row:
                    bits |= 1 << number
                    row = after
            rows.append(row)
            dropped_at.append(dropped)
            changed.append(bits)
        done = batch_of(rows)
        done = done.append_column("dropped_at", pa.array(dropped_at, type=pa.int32()))
        return done.append_column("changed", pa.array(changed, type=pa.int32()))

    return work


def is_storable(row: RawRow) -> bool:
    """Whether all texts of a row can be written as UTF-8 and read back as Python source."""
    texts = (row.instruction, row.input, row.output, row.test_setup, row.entry_point, *row.tests)
    return all("\0" not in text and _is_unicode(text) for text in texts)


def _counted(outcome: Array, changes: Array, section: CleanSection) -> list[StepCount]:
    counts = []
    left = len(outcome)
    for number, (name, description) in enumerate(_steps()):
        dropped = int((outcome == number).sum())
        left -= dropped
        # A row that a step drops, or that an earlier one has dropped, is not changed by it.
        changed = int((changes >> number & 1).sum())
        enabled = name == _ALWAYS or bool(getattr(section, name))
        counts.append(StepCount(name, description, enabled, changed, dropped, left))
    return counts


def _steps() -> Iterator[tuple[str, str]]:
    yield _ALWAYS, _ALWAYS_DESCRIPTION
    for name, setting in CleanSection.model_fields.items():
        yield name, setting.description or ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _has_question_and_answer(row: RawRow) -> bool:
    return bool((row.instruction.strip() or row.input.strip()) and row.output.strip())


def _normalised(row: RawRow) -> RawRow:
    instruction, given = normalise_prose(row.instruction), normalise_prose(row.input)
    output = normalise_code(row.output)
    if (instruction, given, output) == (row.instruction, row.input, row.output):
        return row
    return replace(row, instruction=instruction, input=given, output=output)


def _change_output(change: Callable[[str], str]) -> RowStep:
    def step(row: RawRow) -> RawRow:
        output = change(row.output)
        return row if output == row.output else replace(row, output=output)

    return step


def _keep_if(holds: Callable[[RawRow], bool]) -> RowStep:
    return lambda row: row if holds(row) else None


_STEPS: dict[str, RowStep] = {
    _ALWAYS: _keep_if(is_storable),
    "unfence": _change_output(unfence),
    "drop_language_line": _change_output(drop_language_line),
    "remove_comments": _change_output(remove_comments),
    "normalise_whitespace": _normalised,
    "drop_empty": _keep_if(_has_question_and_answer),
    "drop_unparseable": _keep_if(lambda row: parse_failure(row.output) is None),
}
