"""Metrics that run the answer: whether its tests pass, and whether it runs at all.

An outcome of ``infra`` is nobody's fault: the example then counts for no system.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veritune.rows import Example, Prediction, Score
from veritune.sandbox.outcome import Execution, Job
from veritune.sandbox.policy import Policy
from veritune.score.code import is_empty, parse_failure
from veritune.score.metric import Metric, mean_percent

Run = Callable[[Sequence[Job]], Sequence[Execution]]
"""Runs jobs in the sandbox, in order."""


def _signature(how: str) -> str:
    policy = Policy()
    return (
        f"{how}|sandbox:bubblewrap|wall:{policy.wall_seconds:g}s|memory:"
        f"{policy.resident_bytes >> 20}MiB|runs:2|timeouts:again, alone|empty:0"
    )


PASS_AT_1 = Metric(
    name="pass_at_1",
    label="pass@1",
    unit="%",
    scale=100.0,
    binary=True,
    signature=lambda: _signature("tests given with the row"),
    score=None,
    corpus=mean_percent,
)
RUNS_CLEAN = Metric(
    name="runs_clean",
    label="runs clean",
    unit="%",
    scale=100.0,
    binary=True,
    signature=lambda: _signature("exit code 0, the row's input on stdin"),
    score=None,
    corpus=mean_percent,
)


@dataclass(frozen=True, slots=True)
class Ran:
    """One answer that was run, for the report.

    Attributes:
        metric: ``pass_at_1`` or ``runs_clean``.
        detail: one line on what happened.
    """

    example_id: str
    system: str
    metric: str
    outcome: str
    detail: str
    seconds: float


def functional_scores(
    examples: Sequence[Example], predictions: Sequence[Prediction], run: Run
) -> tuple[list[Score], list[Ran]]:
    """Run every greedy answer: against its tests where the example has any, and as a script.

    Returns:
        Scores without the examples whose outcome was ``infra`` for any system, and what
        happened to every answer.
    """
    known = {example.example_id: example for example in examples}
    wanted: list[tuple[Prediction, str, Job]] = []
    for row in predictions:
        example = known.get(row.example_id)
        if example is None or row.sample_index != 0:
            continue
        if example.tests:
            wanted.append((row, PASS_AT_1.name, test_job(example, row.code)))
        wanted.append((row, RUNS_CLEAN.name, Job(row.code, stdin=example.input)))
    executions = run_answers([job for _, _, job in wanted], run)
    ran = [
        Ran(row.example_id, row.system, metric, done.outcome, done.detail, round(done.seconds, 3))
        for (row, metric, _), done in zip(wanted, executions, strict=True)
    ]
    lost = {(row.example_id, row.metric) for row in ran if row.outcome == "infra"}
    scores = [
        functional_score(row.example_id, row.system, row.metric, row.outcome)
        for row in ran
        if (row.example_id, row.metric) not in lost
    ]
    return scores, ran


def functional_score(example_id: str, system: str, metric: str, outcome: str) -> Score:
    """One outcome as a score: 1 for a pass, else 0."""
    hit = float(outcome == "pass")
    return Score(example_id, system, metric, hit, outcome, (hit, 1.0))


def test_job(example: Example, code: str) -> Job:
    """The job of running an answer against its example's tests."""
    return Job(code, example.tests, example.test_setup, example.entry_point)


def run_answers(jobs: Sequence[Job], run: Run) -> list[Execution]:
    """Run jobs; what is empty or does not parse fails without being started."""
    decided = [_without_running(job.code) for job in jobs]
    waiting = [job for job, done in zip(jobs, decided, strict=True) if done is None]
    results = iter(run(waiting) if waiting else ())
    return [next(results) if done is None else done for done in decided]


def broken_references(examples: Sequence[Example], run: Run) -> list[tuple[Example, Execution]]:
    """Examples whose own reference does not pass their tests, with what happened instead."""
    tested = [example for example in examples if example.tests]
    executions = run([test_job(example, example.reference) for example in tested])
    pairs = zip(tested, executions, strict=True)
    return [(example, done) for example, done in pairs if done.outcome != "pass"]


def outcome_table(ran: Sequence[Ran], splits: dict[str, str]) -> list[dict[str, Any]]:
    """How often each outcome came, by system, split and metric."""
    table: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in ran:
        key = (splits[row.example_id], row.system, row.metric)
        counts = table.setdefault(key, {})
        counts[row.outcome] = counts.get(row.outcome, 0) + 1
    return [
        {
            "split": split,
            "system": system,
            "metric": metric,
            "n": sum(counts.values()),
            "outcomes": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        }
        for (split, system, metric), counts in sorted(table.items())
    ]


def _without_running(code: str) -> Execution | None:
    if is_empty(code):
        return Execution("fail", "the answer is empty")
    fault = parse_failure(code)
    return None if fault is None else Execution("fail", f"not valid Python: {fault}")
