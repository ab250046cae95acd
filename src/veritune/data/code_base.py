"""Mine question/answer pairs from a code base: ``code:stdlib`` or ``code:PATH``."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from functools import partial
from typing import NamedTuple

from veritune.config import CodeSection, DataSection
from veritune.data.candidates import Candidate
from veritune.data.code_place import open_code
from veritune.data.code_rules import file_left_out, is_test_file, text_left_out
from veritune.data.code_tree import CodeFile, CodeTree, Unreadable
from veritune.data.function_pairs import pairs_of
from veritune.data.licences import spdx_of
from veritune.data.raw_rows import RawRows
from veritune.data.unit_tests import UnitTests, module_path
from veritune.data.verify_tests import verified
from veritune.errors import DataError
from veritune.progress import Reporter

_HEAD_CHARACTERS = 2000


class _Mined(NamedTuple):
    candidates: list[Candidate]
    n_files: int
    sha256: str
    licences: Counter[str]


def read_code(section: DataSection, reporter: Reporter) -> RawRows:
    """One pair for each documented function and method, in order of path and line.

    What ``data.code`` leaves out is counted in ``origin["left_out"]``, by reason.

    Raises:
        DataError: the path does not exist, or nothing in it makes a pair.
        EnvironmentFault: a commit is asked for, and git is not installed.
    """
    settings = section.code
    tree = open_code(section)
    left_out: Counter[str] = Counter(tree.left_out)
    chosen, test_files = _chosen(tree, settings, left_out)
    tests = UnitTests()
    wanted = settings.unit_tests
    if wanted or (wanted is None and section.source != "code:stdlib"):
        _read_tests(test_files, tests, tree, reporter)
    mined = _mine(tree, chosen, tests, section, left_out=left_out, reporter=reporter)
    if not mined.candidates:
        raise _no_pairs(section.source, len(chosen), left_out)
    rows, counts, notice = verified(mined.candidates, reporter)
    rows = rows[: section.max_rows]
    if not rows:
        raise _no_pairs(section.source, len(chosen), left_out + counts.left_out)
    left_out += counts.left_out
    return RawRows(
        rows,
        {
            "kind": "code",
            "name": tree.name,
            "revision": tree.revision,
            "sha256": mined.sha256,
            "licence": tree.licence,
            "columns": [],
            "rows_read": len(rows),
            "files_read": mined.n_files,
            "left_out": dict(sorted(left_out.items())),
            "docstring_tests": counts.examples,
            "unit_tests": counts.unit_tests,
            "notices": [*tree.notices, *([notice] if notice else [])],
            **({"licences_of_files": dict(mined.licences)} if mined.licences else {}),
            **tree.facts,
        },
    )


def _chosen(
    tree: CodeTree, settings: CodeSection, left_out: Counter[str]
) -> tuple[list[CodeFile], list[CodeFile]]:
    """(files to mine, files to look for unit tests in); one named file is always mined."""
    is_single = tree.is_walked and not tree.package
    chosen, tests = [], []
    for file in tree.files:
        reason = file_left_out(file.name, settings, is_walked=tree.is_walked)
        if reason is None or is_single:
            chosen.append(file)
        else:
            left_out[reason] += 1
        if is_test_file(file.name) and reason in (None, "test files"):
            tests.append(file)
    return chosen, tests


def _read_tests(
    files: list[CodeFile], tests: UnitTests, tree: CodeTree, reporter: Reporter
) -> None:
    with reporter.task("read the tests", len(files)) as task:
        for file in files:
            task.advance()
            try:
                tests.add(importlib.util.decode_source(file.read()), file.name, tree.package)
            except (Unreadable, SyntaxError, UnicodeError, LookupError):
                continue


def _mine(
    tree: CodeTree,
    files: list[CodeFile],
    tests: UnitTests,
    section: DataSection,
    *,
    left_out: Counter[str],
    reporter: Reporter,
) -> _Mined:
    digest = hashlib.sha256()
    candidates: list[Candidate] = []
    licences: Counter[str] = Counter()
    n_files = n_sure = 0
    with reporter.task("read the code", len(files)) as task:
        for file in files:
            task.advance()
            try:
                content = file.read()
                text = importlib.util.decode_source(content)
            except Unreadable as fault:
                left_out[str(fault)] += 1
                continue
            except (SyntaxError, UnicodeError, LookupError):
                left_out["files of unknown encoding"] += 1
                continue
            digest.update(f"{file.name}\0{len(content)}\0".encode())
            digest.update(content)
            if reason := text_left_out(text, section.code):
                left_out[reason] += 1
                continue
            n_files += 1
            if licence := spdx_of(text[:_HEAD_CHARACTERS]):
                licences[licence] += 1
            found = pairs_of(
                text,
                file.name,
                section.code,
                left_out,
                tests_of=partial(tests.of, module_path(file.name, tree.package)),
                sha256=hashlib.sha256(content).hexdigest(),
            )
            candidates += found
            n_sure += sum(not item.is_trivial for item in found)
            if section.max_rows is not None and n_sure >= section.max_rows:
                break
    return _Mined(candidates, n_files, digest.hexdigest(), licences)


def _no_pairs(source: str, n_files: int, left_out: Counter[str]) -> DataError:
    counts = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
    return DataError(
        "no function in it can serve as an example",
        received=f"{source}: {n_files} Python files" + (f"; left out: {counts}" if counts else ""),
        accepted="public functions and methods with a docstring and a body of their own",
        next_step="name a folder of documented Python code, or let more in: data.code.include_…,"
        " data.code.min_statements",
    )
