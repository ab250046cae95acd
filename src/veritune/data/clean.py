"""The cleaning steps, in the order of ``CleanSection``, each counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from veritune.config import CleanSection
from veritune.data.fences import drop_language_line, unfence
from veritune.data.raw_rows import RawRow
from veritune.data.source_text import normalise_code, normalise_prose, remove_comments
from veritune.data.steps import StepCount
from veritune.data.syntax import parse_failure

_ALWAYS = "drop_unstorable"
_ALWAYS_DESCRIPTION = (
    "drop rows with NUL characters or lone surrogates, which no Python file can hold"
)

RowStep = Callable[[Sequence[RawRow]], Iterator[RawRow | None]]


def clean(rows: Sequence[RawRow], section: CleanSection) -> tuple[list[RawRow], list[StepCount]]:
    """Apply every step that is enabled; the others are listed too, with zero counts.

    Before them all, rows whose text could not be written to a file are dropped.
    """
    kept = list(rows)
    counts = []
    for name, description, step in _steps():
        enabled = name == _ALWAYS or bool(getattr(section, name))
        changed = dropped = 0
        if enabled:
            results = list(step(kept))
            changed = sum(
                after is not None and after is not before
                for before, after in zip(kept, results, strict=True)
            )
            dropped = sum(row is None for row in results)
            kept = [row for row in results if row is not None]
        counts.append(StepCount(name, description, enabled, changed, dropped, len(kept)))
    return kept, counts


def _steps() -> Iterator[tuple[str, str, RowStep]]:
    yield _ALWAYS, _ALWAYS_DESCRIPTION, _keep_if(is_storable)
    for name, setting in CleanSection.model_fields.items():
        yield name, setting.description or "", _STEPS[name]


def is_storable(row: RawRow) -> bool:
    """Whether all texts of a row can be written as UTF-8 and read back as Python source."""
    texts = (row.instruction, row.input, row.output, row.test_setup, row.entry_point, *row.tests)
    return all("\0" not in text and _is_unicode(text) for text in texts)


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
    def step(rows: Sequence[RawRow]) -> Iterator[RawRow | None]:
        for row in rows:
            output = change(row.output)
            yield row if output == row.output else replace(row, output=output)

    return step


def _keep_if(holds: Callable[[RawRow], bool]) -> RowStep:
    return lambda rows: (row if holds(row) else None for row in rows)


def _first_of_equals(rows: Sequence[RawRow]) -> Iterator[RawRow | None]:
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        key = (row.instruction, row.input, row.output)
        yield None if key in seen else row
        seen.add(key)


_STEPS: dict[str, RowStep] = {
    "unfence": _change_output(unfence),
    "drop_language_line": _change_output(drop_language_line),
    "remove_comments": _change_output(remove_comments),
    "normalise_whitespace": lambda rows: (_normalised(row) for row in rows),
    "drop_empty": _keep_if(_has_question_and_answer),
    "drop_exact_duplicates": _first_of_equals,
    "drop_unparseable": _keep_if(lambda row: parse_failure(row.output) is None),
}
