"""Tests that came with mined code, kept only where they tell right from wrong.

A test counts if the reference passes it in the sandbox and a stub that raises does not.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace

from veritune.data.raw_rows import RawRow
from veritune.progress import Reporter
from veritune.sandbox.cache import ExecutionCache, default_cache
from veritune.sandbox.canaries import sandbox_here
from veritune.sandbox.outcome import Job
from veritune.sandbox.pool import Pool


def verified(
    rows: Sequence[RawRow], reporter: Reporter, cache: ExecutionCache | None = None
) -> tuple[list[RawRow], dict[str, int], str]:
    """Take back the tests that prove nothing.

    Returns:
        The rows in order, counts for the card (``tested``, ``reference_fails``,
        ``stub_passes``), and a notice where nothing could be run: then no test is kept.
    """
    tested = [row for row in rows if row.tests]
    if not tested:
        return list(rows), {}, ""
    found = sandbox_here()
    if not found.available:
        why = f"{len(tested)} rows have tests, which were left out unverified: {found.missing}"
        return [_without(row) for row in rows], {"tested": 0, "unverified": len(tested)}, why
    pool = Pool(cache=cache or default_cache())
    with reporter.task("run the examples of docstrings", None):
        right = pool.run([_job(row, row.output) for row in tested])
        wrong = pool.run([_job(row, _stub(row.output)) for row in tested])
    verdicts = {
        id(row): (one.outcome, other.outcome)
        for row, one, other in zip(tested, right, wrong, strict=True)
    }
    counts = {"tested": 0, "reference_fails": 0, "stub_passes": 0}
    kept = []
    for row in rows:
        reference, stub = verdicts.get(id(row), ("pass", "fail"))
        fault = _fault(reference, stub)
        if row.tests:
            counts[fault or "tested"] += 1
        kept.append(_without(row) if fault else row)
    return kept, counts, ""


def _fault(reference: str, stub: str) -> str:
    if reference != "pass":
        return "reference_fails"
    return "stub_passes" if stub == "pass" else ""


def _job(row: RawRow, code: str) -> Job:
    return Job(code, row.tests, row.test_setup, row.entry_point)


def _stub(code: str) -> str:
    """The same names, each a function that raises."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    names = [
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    return "\n".join(
        f"def {name}(*arguments, **keywords):\n    raise NotImplementedError" for name in names
    )


def _without(row: RawRow) -> RawRow:
    return replace(row, tests=(), test_setup="", entry_point="")
