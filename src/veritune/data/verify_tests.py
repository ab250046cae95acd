"""Tests that came with mined code, kept only where they tell right from wrong.

A test counts if the reference passes it in the sandbox and a stub that raises does not.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from veritune.data.candidates import Candidate, Trial
from veritune.data.code_rules import TRIVIAL
from veritune.data.raw_rows import RawRow
from veritune.progress import Reporter
from veritune.sandbox.cache import ExecutionCache, default_cache
from veritune.sandbox.canaries import sandbox_here
from veritune.sandbox.outcome import Job
from veritune.sandbox.pool import Pool
from veritune.sandbox.questions import BadTests, Check, plan

_MAX_SETS = 8
_RELATIVE_IMPORT = re.compile(r"^from[ \t]+\.", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """What came of the tests, for the card.

    Attributes:
        examples: functions with docstring examples: ``tested``, ``reference_fails``,
            ``stub_passes``, or ``unverified``.
        unit_tests: unit tests, each counted for every function it calls, likewise; ``functions``
            is how many have at least one.
        left_out: trivial functions whose tests were not worth anything.
    """

    examples: dict[str, int]
    unit_tests: dict[str, int]
    left_out: Counter[str] = field(default_factory=Counter)


def verified(
    candidates: Sequence[Candidate], reporter: Reporter, cache: ExecutionCache | None = None
) -> tuple[list[RawRow], TrialCounts, str]:
    """Keep the tests that prove something.

    Returns:
        The rows in order, the counts, and a notice where nothing could be run: then no test is
        kept.
    """
    pairs = [(place, one) for place, item in enumerate(candidates) for one in item.trials]
    kept: dict[int, list[Trial]] = {}
    faults: dict[int, str] = {}
    notice = ""
    if pairs:
        found = sandbox_here()
        if found.available:
            cache = cache or default_cache()
            faults = _faults(candidates, pairs, cache, reporter)
            for number, (place, one) in enumerate(pairs):
                if not faults[number]:
                    kept.setdefault(place, []).append(one)
            kept = _agreeing(Pool(cache=cache), candidates, kept, reporter)
        else:
            tested = sum(bool(item.trials) for item in candidates)
            notice = f"{tested} rows have tests, which were left out unverified: {found.missing}"
            faults = dict.fromkeys(range(len(pairs)), "unverified")
    counts = _counts(pairs, faults, kept)
    rows = []
    for place, item in enumerate(candidates):
        if place in kept:
            rows.append(_with(item, kept[place]))
        elif item.is_trivial:
            counts.left_out[TRIVIAL] += 1
        else:
            rows.append(replace(item.row, entry_point="" if item.trials else item.row.entry_point))
    return rows, counts, notice


def _faults(
    candidates: Sequence[Candidate],
    pairs: Sequence[tuple[int, Trial]],
    cache: ExecutionCache,
    reporter: Reporter,
) -> dict[int, str]:
    """Why each test is worth nothing, by number; empty where it is worth something.

    Most that fail do so at once, so the first run is a single one; what passes it is run as
    answers are, twice.
    """
    jobs = [_job(candidates[place], [one]) for place, one in pairs]
    faults = {
        number: "" if _can_run(candidates[place], one) else "reference_fails"
        for number, (place, one) in enumerate(pairs)
    }
    for title, repeat in (("run the tests of the code", False), ("run them again", True)):
        _sift(faults, jobs, title, Pool(cache=cache, repeat=repeat), reporter)
    stubs = [replace(job, code=_stub(job.code)) for job in jobs]
    passing = [number for number, fault in faults.items() if not fault]
    chosen = [stubs[number] for number in passing]
    with reporter.task("run them against stubs", len(set(chosen))) as task:
        wrong = Pool(cache=cache, repeat=False).run(chosen, task.advance)
    for number, done in zip(passing, wrong, strict=True):
        if done.outcome == "pass":
            faults[number] = "stub_passes"
    return faults


def _sift(
    faults: dict[int, str], jobs: Sequence[Job], title: str, pool: Pool, reporter: Reporter
) -> None:
    passing = [number for number, fault in faults.items() if not fault]
    chosen = [jobs[number] for number in passing]
    with reporter.task(title, len(set(chosen))) as task:
        done = pool.run(chosen, task.advance)
    for number, execution in zip(passing, done, strict=True):
        if execution.outcome != "pass":
            faults[number] = "reference_fails"


def _can_run(candidate: Candidate, one: Trial) -> bool:
    """False where running could only fail: it costs a tenth of a second each.

    A module that imports its neighbours is not a module by itself; a method's object cannot be
    handed to tests that run apart from it.
    """
    if _RELATIVE_IMPORT.search(candidate.test_setup):
        return False
    return "." not in candidate.row.entry_point or _form(candidate, one) == "steps"


def _agreeing(
    pool: Pool,
    candidates: Sequence[Candidate],
    kept: dict[int, list[Trial]],
    reporter: Reporter,
) -> dict[int, list[Trial]]:
    """Sets that pass together too: they share their names, and one may spoil the next.

    Where they do not, the first stays alone.
    """
    chosen = {place: _of_one_form(candidates[place], sets) for place, sets in kept.items()}
    several = [place for place, sets in chosen.items() if len(sets) > 1]
    jobs = [_job(candidates[place], chosen[place]) for place in several]
    with reporter.task("run tests together", len(set(jobs))) as task:
        done = pool.run(jobs, task.advance)
    for place, execution in zip(several, done, strict=True):
        if execution.outcome != "pass":
            chosen[place] = chosen[place][:1]
    return chosen


def _of_one_form(candidate: Candidate, sets: list[Trial]) -> list[Trial]:
    """Sets that can be run in one go, those whose values are compared outside first."""
    forms: dict[str, list[Trial]] = {"steps": [], "apart": [], "check": []}
    for one in sets:
        forms[_form(candidate, one)].append(one)
    return next(found[:_MAX_SETS] for found in forms.values() if found)


def _form(candidate: Candidate, one: Trial) -> str:
    if one.kind == "check":
        return "check"
    try:
        return "apart" if isinstance(plan(_job(candidate, [one])), Check) else "steps"
    except BadTests:
        return "apart"


def _counts(
    pairs: Sequence[tuple[int, Trial]], faults: dict[int, str], kept: dict[int, list[Trial]]
) -> TrialCounts:
    examples: Counter[str] = Counter()
    unit: Counter[str] = Counter()
    for number, (_, one) in enumerate(pairs):
        of_kind = examples if one.kind == "examples" else unit
        of_kind[faults[number] or "tested"] += 1
    names = ("tested", "reference_fails", "stub_passes")
    if unit:
        unit["functions"] = sum(
            any(one.kind != "examples" for one in sets) for sets in kept.values()
        )
    return TrialCounts(_full(examples, names), _full(unit, (*names, "functions")))


def _full(counts: Counter[str], names: Sequence[str]) -> dict[str, int]:
    if not counts:
        return {}
    if "unverified" in counts:
        return {"tested": 0, "unverified": counts["unverified"]}
    return {name: counts[name] for name in names}


def _with(candidate: Candidate, sets: list[Trial]) -> RawRow:
    return replace(candidate.row, tests=_tests(sets), test_setup=candidate.test_setup)


def _job(candidate: Candidate, sets: Sequence[Trial]) -> Job:
    row = candidate.row
    return Job(row.output, _tests(sets), candidate.test_setup, row.entry_point)


def _tests(sets: Sequence[Trial]) -> tuple[str, ...]:
    """The sets as a row keeps them: statements in order, or one ``check``."""
    before = tuple(dict.fromkeys(text for one in sets for text in one.before))
    if all(one.kind != "check" for one in sets):
        return (*before, *(test for one in sets for test in one.tests))
    lines = ["def check(candidate):"]
    for number, one in enumerate(sets, start=1):
        body = ast.parse("\n".join(one.tests)).body
        inner = ast.FunctionDef(
            f"test_{number}", ast.arguments([], [], None, [], [], None, []), body, [], lineno=1
        )
        text = ast.unparse(ast.fix_missing_locations(inner))
        lines += [f"    {line}" for line in text.split("\n")] + [f"    test_{number}()"]
    return (*before, "\n".join(lines))


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
