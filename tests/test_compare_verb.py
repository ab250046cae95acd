"""``veritune compare``: two finished runs, paired on the questions both kept for testing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distinct_rows import own_cache, write_distinct_recipe  # noqa: F401
from test_main_job import invoke


@pytest.fixture
def recipe(tiny_llama_folder: Path, tmp_path: Path, own_cache: None) -> Path:  # noqa: F811
    return write_distinct_recipe(tmp_path, tiny_llama_folder)


@pytest.mark.slow
def test_two_runs_on_the_same_rows_are_paired(recipe: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "run", tmp_path / "other"
    assert invoke("run", recipe).exit_code == 0
    changed = ("--set", f"output_dir={second}", "--set", "lora.r=2")
    assert invoke("run", recipe, *changed).exit_code == 0
    outcome = invoke("compare", first, second, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["n_common"] == 32 and result["n_left_out"] == 0
    rows = {row["metric"]: row for row in result["comparisons"]}
    assert {"chrf", "parse_rate"} <= set(rows)
    assert (rows["chrf"]["system"], rows["chrf"]["against"]) == ("run", "other")
    swapped = json.loads(invoke("compare", second, first, "--json").stdout)
    other = {row["metric"]: row for row in swapped["comparisons"]}
    assert other["chrf"]["delta"] == pytest.approx(-rows["chrf"]["delta"])
    itself = json.loads(invoke("compare", first, first, "--json").stdout)
    assert itself["verdict"] == "no difference detected"
    assert all(row["delta"] == 0 for row in itself["comparisons"])
    said = invoke("compare", first, second).stdout.replace("\n", " ")
    assert "common test questions" in said and "max_new_tokens" not in said

    shorter = invoke("evaluate", second, "--set", "evaluate.max_new_tokens=3")
    assert shorter.exit_code == 0, shorter.stderr
    cut = json.loads(invoke("compare", first, second, "--json").stdout)
    assert cut["max_new_tokens"] == [24, 3]
    assert (
        "24 and 3 tokens long" in cut["sentence"] and "not the adapters' alone" in cut["sentence"]
    )


def test_what_cannot_be_compared_is_refused(recipe: Path, tmp_path: Path) -> None:
    assert invoke("run", recipe).exit_code == 0
    unknown = invoke("compare", tmp_path / "run", tmp_path / "nowhere")
    assert unknown.exit_code == 2 and "run directory" in unknown.stderr
    (tmp_path / "run/scores.parquet").unlink()
    unscored = invoke("compare", tmp_path / "run", tmp_path / "run")
    assert unscored.exit_code == 2 and "veritune evaluate" in unscored.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
def test_samples_and_benchmarks_are_asked_and_judged(recipe: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["output"] = f"def f():\n    return {number}\n"
        row["tests"] = [f"assert f() == {number}"]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = {"text": "Give one.", "code": "def g():\n    return 1", "test_list": ["assert g() == 1"]}
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({**task, "task_id": i}) + "\n" for i in range(3)))
    outcome = invoke(
        "run", recipe, "--json",
        "--set", "evaluate.samples.n=3",
        "--set", f"evaluate.benchmarks=[{tasks}]",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    content = json.loads((tmp_path / "run/comparison.json").read_text())
    assert [row["k"] for row in content["pass_at_k"]["rows"]] == [1, 2, 3]
    assert content["pass_at_k"]["rows"][0]["n_samples"] == 3
    assert len((tmp_path / "run/samples/adapted.jsonl").read_text().splitlines()) == 3 * 32
    (benchmark,) = content["benchmarks"]
    assert benchmark["n_tasks"] == 3 and benchmark["verdict"] == "not measured"
    assert {row["metric"] for row in content["comparisons"]} >= {"pass_at_1", "runs_clean"}
    assert content["functional"]["available"] is True
    assert content["loss_gap"]["n_test"] == 32
    again = invoke("run", recipe, "--json", "--set", "evaluate.samples.n=3",
                   "--set", f"evaluate.benchmarks=[{tasks}]")  # fmt: skip
    assert "evaluate: unchanged, kept" in again.stderr


@pytest.mark.usefixtures("sandbox")
def test_a_reference_that_fails_stops_before_any_answer(recipe: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["output"] = "def f():\n    return 1\n" + row["output"].split("\n")[0] + "\n"
        row["tests"] = ["assert f() == 1"]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    outcome = invoke("run", recipe)
    assert outcome.exit_code == 2
    assert "references do not pass their own tests" in outcome.stderr
    assert "--allow-broken-references" in outcome.stderr
    assert not list((tmp_path / "run").glob("predictions/*.jsonl"))
