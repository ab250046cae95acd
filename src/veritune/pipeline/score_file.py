"""Anyone's predictions, scored: one JSON object a line, only ``answer`` is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from veritune.atomic import disk_faults, write_json, write_text
from veritune.errors import DataError, RunDirectoryError
from veritune.pipeline.functional import Runner, open_runner, without_broken
from veritune.progress import Reporter
from veritune.rows import Example, Prediction, Score, write_scores
from veritune.run_dir import RunDirectory
from veritune.score import METRICS, corpus_value, extract_code, score_predictions
from veritune.score.functional import Ran, functional_scores

SYSTEM = "predictions"
_TEXT_FIELDS = ("example_id", "prompt", "reference", "test_setup", "entry_point")
_NEEDS_NO_REFERENCE = ("parse_rate",)
_NEEDS_REFERENCE = tuple(
    name
    for name, metric in METRICS.items()
    if metric.score is not None and name not in _NEEDS_NO_REFERENCE
)


@dataclass(frozen=True)
class Row:
    """One line of the file.

    Attributes:
        has_reference: whether metrics against a reference apply.
    """

    example: Example
    answer: str
    has_reference: bool


def score_file(
    path: Path,
    reporter: Reporter,
    *,
    output: Path | None = None,
    run_answers: bool = True,
    allow_broken_references: bool = False,
) -> dict[str, Any]:
    """Score a file of predictions.

    Args:
        path: JSON lines with ``answer`` (a whole program, or a text with a fenced one), and
            as far as known ``example_id``, ``prompt``, ``reference``, ``tests``,
            ``test_setup``, ``entry_point``.
        output: a folder for ``scores.parquet`` and ``executions.jsonl`` and ``scores.json``.

    Returns:
        ``examples``: for each line its ``example_id``, ``outcome`` and metrics;
        ``metrics``: for each metric its corpus value, count and signature;
        ``not_measured``: what could not be measured, and why.

    Raises:
        DataError: the file is at fault, or a reference fails its own tests.
        RunDirectoryError: the output folder is a run, whose own scores would be replaced.
        DiskFault: the output folder cannot be written.
    """
    rows = read_rows(path)
    if output is not None:
        _claim(output)
    runner = open_runner(reporter) if run_answers else Runner(reporter, "switched off by --no-run")
    examples = [row.example for row in rows]
    referenced = [row.example for row in rows if row.has_reference]
    _, broken = without_broken(referenced, runner, allow=allow_broken_references)
    lost = {row["example_id"] for row in broken}
    examples = [replace(row, tests=()) if row.example_id in lost else row for row in examples]
    predictions = [_prediction(row) for row in rows]
    answered = {row.example.example_id for row in rows if row.has_reference}
    scores = [
        *score_predictions(examples, predictions, _NEEDS_NO_REFERENCE),
        *score_predictions(
            examples,
            [row for row in predictions if row.example_id in answered],
            _NEEDS_REFERENCE,
        ),
    ]
    ran: list[Ran] = []
    if not runner.why_not:
        run_scores, ran = functional_scores(examples, predictions, runner.run)
        scores += run_scores
    result = {
        "examples": _per_example(examples, scores, {(r.example_id, r.metric): r for r in ran}),
        "metrics": _corpus(scores),
        "broken_references": broken,
        "not_measured": _not_measured(scores, runner.why_not, len(broken)),
    }
    if output is not None:
        write_scores(output / "scores.parquet", scores)
        lines = (json.dumps(asdict(row), ensure_ascii=True) for row in ran)
        write_text(output / "executions.jsonl", "".join(f"{line}\n" for line in lines))
        write_json(output / "scores.json", result)
    return result


def _claim(output: Path) -> None:
    """Make the output folder before any work is done for it."""
    if RunDirectory(output).recipe_file.exists():
        raise RunDirectoryError(
            "the output folder is a run, whose own scores would be replaced",
            received=output,
            accepted="a new folder, an empty one, or that of earlier scores",
            next_step="name another --output",
        )
    with disk_faults(output):
        output.mkdir(parents=True, exist_ok=True)


def read_rows(path: Path) -> list[Row]:
    """The lines of a predictions file.

    Raises:
        DataError: it is not there, not JSON lines, or a line has no answer.
    """
    if not path.is_file():
        raise DataError(
            "there is no such predictions file",
            received=path,
            accepted="a .jsonl file with one object a line",
            next_step="check the path",
        )
    rows: list[Row] = []
    try:
        # Only "\n" ends a line: JSON text may hold other characters that split lines.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise _fault(path, 1, f"not UTF-8: {error}") from None
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _fault(path, number, f"not JSON: {error}") from None
        if not isinstance(content, dict):
            raise _fault(path, number, "not an object")
        row = _row(content, path, number)
        if row.example.example_id in seen:
            raise _fault(path, number, f"example_id {row.example.example_id!r} came before")
        seen.add(row.example.example_id)
        rows.append(row)
    if not rows:
        raise _fault(path, 1, "the file is empty")
    return rows


def _row(content: dict[str, Any], path: Path, number: int) -> Row:
    if not isinstance(content.get("answer"), str):
        raise _fault(path, number, "no text in the field answer")
    texts = {}
    for name in _TEXT_FIELDS:
        value = content.get(name)
        if name == "example_id" and isinstance(value, int):
            value = str(value)
        if value is not None and not isinstance(value, str):
            raise _fault(path, number, f"{name} is not a text")
        texts[name] = value or ""
    tests = content.get("tests") or []
    tests = [tests] if isinstance(tests, str) else tests
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise _fault(path, number, "tests is not a list of texts")
    name = texts["example_id"] or f"line {number}"
    example = Example(
        example_id=name,
        cluster_id=name,
        split="test",
        instruction=texts["prompt"],
        input="",
        reference=texts["reference"],
        tests=tuple(tests),
        test_setup=texts["test_setup"],
        entry_point=texts["entry_point"],
        source=f"{path.name}:{number}",
    )
    return Row(example, content["answer"], bool(texts["reference"]))


def _prediction(row: Row) -> Prediction:
    return Prediction(
        example_id=row.example.example_id,
        system=SYSTEM,
        seed=0,
        sample_index=0,
        prompt=row.example.instruction,
        prompt_sha256="",
        raw=row.answer,
        code=extract_code(row.answer),
        n_new_tokens=0,
        finish_reason="external",
    )


def _per_example(
    examples: Sequence[Example], scores: Sequence[Score], ran: dict[tuple[str, str], Any]
) -> list[dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {row.example_id: {} for row in examples}
    for score in scores:
        values[score.example_id][score.metric] = score.value
    rows = []
    for example in examples:
        name = example.example_id
        done = ran.get((name, "pass_at_1")) or ran.get((name, "runs_clean"))
        rows.append(
            {
                "example_id": name,
                "outcome": done.outcome if done else "not measured",
                "detail": done.detail if done else "",
                **values[name],
            }
        )
    return rows


def _corpus(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    found = {}
    for name, metric in METRICS.items():
        rows = [row for row in scores if row.metric == name]
        if rows:
            value = corpus_value(name, rows)
            assert math.isfinite(value)
            signature = metric.signature()
            found[name] = {"value": value, "n_examples": len(rows), "signature": signature}
    return found


def _not_measured(scores: Sequence[Score], why_not: str, n_broken: int) -> list[dict[str, str]]:
    measured = {row.metric for row in scores}
    no_tests = "no row has tests that its own reference passes" if n_broken else "no row has tests"
    rows = []
    for name, metric in METRICS.items():
        if name in measured:
            continue
        why = "no row has a reference" if metric.score is not None else why_not or no_tests
        rows.append({"what": name, "why": why})
    return rows


def _fault(path: Path, number: int, what: str) -> DataError:
    return DataError(
        "a predictions file cannot be read",
        received=f"{path}, line {number}: {what}",
        accepted='{"answer": "…", "example_id": "…", "prompt": "…", "reference": "…",'
        ' "tests": ["assert …"], "test_setup": "…", "entry_point": "…"}, all but answer optional',
        next_step="correct the line",
    )
