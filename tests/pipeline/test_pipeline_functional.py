"""Evaluations that run the answers: the metric is fixed first, references come first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from veritune.config import Recipe
from veritune.errors import DataError
from veritune.pipeline.context import Context
from veritune.pipeline.functional import Runner, open_runner, run_all_answers, without_broken
from veritune.pipeline.primary_metric import fix_primary_metric
from veritune.progress import Silent
from veritune.recipe_file import dump_recipe
from veritune.rows import Example, Prediction, write_examples
from veritune.run_dir import RunDirectory


def example(number: int, *, broken: bool = False, tested: bool = True) -> Example:
    tests = (f"assert f(1) == {number + (2 if broken else 1)}",) if tested else ()
    reference = f"def f(x):\n    return x + {number}\n"
    name = f"e{number}"
    return Example(name, name, "test", "Add.", "", reference, tests, source=f"row {number}")


def answer(row: Example, system: str, code: str) -> Prediction:
    return Prediction(row.example_id, system, 0, 0, "", "", code, code, 1, "stop")


def context(tmp_path: Path, rows: list[Example]) -> Context:
    recipe = Recipe(output_dir=str(tmp_path))
    run = RunDirectory(tmp_path)
    run.recipe_file.write_text(dump_recipe(recipe), encoding="utf-8")
    write_examples(run.split_file("test"), rows)
    return Context(run, recipe, Silent())


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(("n_tested", "metric"), [(59, "chrf"), (60, "pass_at_1")])
def test_sixty_tested_rows_make_pass_at_1_the_metric(
    tmp_path: Path, n_tested: int, metric: str
) -> None:
    rows = [example(i, tested=i < n_tested) for i in range(70)]
    here = context(tmp_path, rows)
    fix_primary_metric(here)
    assert here.run.recipe().evaluate.primary_metric == metric


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(("n_clusters", "metric"), [(29, "chrf"), (30, "pass_at_1")])
def test_pass_at_1_is_not_the_metric_where_it_could_have_no_interval(
    tmp_path: Path, n_clusters: int, metric: str
) -> None:
    rows = [replace(example(i), cluster_id=f"c{i % n_clusters}") for i in range(70)]
    here = context(tmp_path, rows)
    fix_primary_metric(here)
    assert here.run.recipe().evaluate.primary_metric == metric
    notices = str(here.run.manifest().get("notices", ""))
    assert ("in 29 clusters, too few" in notices) == (metric == "chrf")


@pytest.mark.usefixtures("sandbox")
def test_broken_references_stop_everything_unless_left_out() -> None:
    rows = [example(0), example(1, broken=True), example(2)]
    runner = open_runner(Silent())
    with pytest.raises(DataError, match="1 references do not pass"):
        without_broken(rows, runner, allow=False)
    kept, listed = without_broken(rows, runner, allow=True)
    assert [bool(row.tests) for row in kept] == [True, False, True]
    assert [row["source"] for row in listed] == ["row 1"]


@pytest.mark.usefixtures("sandbox")
def test_outcomes_become_scores_and_a_table(tmp_path: Path) -> None:
    rows = [example(i) for i in range(3)]
    here = context(tmp_path, rows)
    predictions = [
        answer(rows[0], "adapted", rows[0].reference),
        answer(rows[1], "adapted", "def f(x):\n    return 0\n"),
        answer(rows[2], "adapted", "def f(x: return"),
        *(answer(row, "baseline", "import nothing_like_it") for row in rows),
    ]
    scores, state = run_all_answers(here, rows, predictions, open_runner(Silent()), [])
    passed = {(s.example_id, s.system): s.value for s in scores if s.metric == "pass_at_1"}
    assert [passed[row.example_id, "adapted"] for row in rows] == [1, 0, 0]
    outcomes = {(r["system"], r["metric"]): r["outcomes"] for r in state["outcomes"]}
    assert outcomes["baseline", "runs_clean"] == {"missing_module": 3}
    assert here.run.executions.read_text().count("\n") == len(scores)


def test_without_a_sandbox_there_are_no_scores_but_a_reason(tmp_path: Path) -> None:
    rows = [replace(example(0), tests=())]
    runner = Runner(Silent(), "no sandbox: bubblewrap is not installed")
    scores, state = run_all_answers(context(tmp_path, rows), rows, [], runner, [])
    assert scores == [] and state["available"] is False and "bubblewrap" in state["why"]
