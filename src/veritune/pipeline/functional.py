"""Running answers in the sandbox, or saying why that was not done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from veritune.atomic import write_text
from veritune.errors import DataError
from veritune.pipeline.context import Context
from veritune.progress import Reporter
from veritune.rows import Example, Prediction, Score
from veritune.sandbox.cache import default_cache
from veritune.sandbox.canaries import sandbox_here
from veritune.sandbox.interpreter import INSTALL
from veritune.sandbox.outcome import Execution, Job
from veritune.sandbox.pool import Pool
from veritune.score.functional import broken_references, functional_scores, outcome_table

_SHOWN = 10


@dataclass(frozen=True)
class Runner:
    """The sandbox of one evaluation.

    Attributes:
        why_not: why no answer is run; empty if answers are run.
    """

    reporter: Reporter
    why_not: str

    def run(self, jobs: Sequence[Job]) -> list[Execution]:
        """Run jobs, each twice, known ones from the cache."""
        pool = Pool(cache=default_cache())
        with self.reporter.task("running answers in the sandbox", len(set(jobs))) as task:
            return pool.run(jobs, on_done=task.advance)


def open_runner(reporter: Reporter, *, wanted: bool = True) -> Runner:
    """Attack the sandbox with the canaries; only if it holds is anything run."""
    if not wanted:
        return Runner(reporter, "switched off (evaluate.run_answers: false)")
    found = sandbox_here()
    if found.available:
        return Runner(reporter, "")
    fix = "" if INSTALL in found.missing else f" (to install: {INSTALL})"
    why = f"no sandbox: {found.missing}{fix}"
    reporter.say(f"  generated code is not run; functional metrics are not measured: {why}")
    return Runner(reporter, why)


def without_broken(
    examples: Sequence[Example], runner: Runner, *, allow: bool
) -> tuple[list[Example], list[dict[str, str]]]:
    """Run the references against their own tests before any model is asked.

    Args:
        allow: take the tests of broken rows out instead of stopping.

    Returns:
        The examples, and what was wrong with those that lost their tests.

    Raises:
        DataError: a reference does not pass its own tests.
    """
    if runner.why_not:
        return list(examples), []
    broken = broken_references(examples, runner.run)
    listed = [
        {
            "example_id": example.example_id,
            "source": example.source,
            "outcome": done.outcome,
            "detail": done.detail,
        }
        for example, done in broken
    ]
    if broken and not allow:
        shown = "; ".join(
            f"{row['source'] or row['example_id']}: {row['outcome']} ({row['detail']})"
            for row in listed[:_SHOWN]
        )
        raise DataError(
            f"{len(broken)} references do not pass their own tests, so nothing can be said of"
            " answers to them",
            received=shown + ("; …" if len(broken) > _SHOWN else ""),
            accepted="references that pass",
            next_step="correct the rows, or leave them out of pass@1 with"
            " --allow-broken-references",
        )
    lost = {row["example_id"] for row in listed}
    return [replace(row, tests=()) if row.example_id in lost else row for row in examples], listed


def run_all_answers(
    context: Context,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    runner: Runner,
    broken: list[dict[str, str]],
) -> tuple[list[Score], dict[str, Any]]:
    """Functional scores, ``executions.jsonl``, and what the conclusion says about running."""
    state: dict[str, Any] = {"available": not runner.why_not, "why": runner.why_not}
    if runner.why_not:
        context.run.executions.unlink(missing_ok=True)
        return [], {**state, "outcomes": [], "broken_references": [], "flaky": [], "n_infra": 0}
    scores, ran = functional_scores(examples, predictions, runner.run)
    lines = (json.dumps(asdict(row), ensure_ascii=True) for row in ran)
    write_text(context.run.executions, "".join(f"{line}\n" for line in lines))
    splits = {example.example_id: str(example.split) for example in examples}
    return scores, {
        **state,
        "outcomes": outcome_table(ran, splits),
        "broken_references": broken,
        "flaky": [asdict(row) for row in ran if row.outcome == "flaky"],
        "n_infra": sum(row.outcome == "infra" for row in ran),
        "n_with_tests": sum(bool(row.tests) for row in examples if row.split == "test"),
    }
