"""`veritune sweep` from a recipe to a chosen, evaluated run; through kills, too."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from browser import browser, console, is_wider_than_window, open_page  # noqa: F401
from distinct_rows import own_cache  # noqa: F401
from sweep_recipes import RANKS, RATES, write_sweep_recipe
from test_main_job import invoke
from veritune.model.adapter import load_adapter
from veritune.model.hardware import choose_placement
from veritune.model.load import load_model
from veritune.pipeline.encode import make_encoder
from veritune.recipe_file import load_recipe
from veritune.report.sweep_page import render_sweep
from veritune.rows import read_examples, read_predictions
from veritune.train.batches import make_layout
from veritune.train.loss import mean_loss

_SWEEP = "import sys; from veritune.cli import main; sys.argv[0] = 'veritune'; main()"


@pytest.fixture(autouse=True)
def _cache(own_cache: None) -> None:  # noqa: F811
    """A ledger of this test's own."""


def swept(recipe: Path, *more: str) -> dict[str, Any]:
    outcome = invoke("sweep", recipe, "--json", *more)
    assert outcome.exit_code == 0, outcome.stderr
    return dict(json.loads(outcome.stdout))


def test_the_best_on_validation_becomes_the_run_and_alone_meets_test(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe, run = write_sweep_recipe(tmp_path, tiny_llama_folder), tmp_path / "run"
    result = swept(recipe)
    rows = result["configurations"]
    assert len(rows) == len(RANKS) * len(RATES) == result["sweep"]["n_configurations"]
    assert [row["rank"] for row in rows] == list(range(1, 7))
    losses = [row["validation_loss"] for row in rows]
    assert losses == sorted(losses) and result["winner"] == rows[0]

    resolved = load_recipe(run / "recipe.yaml")
    assert resolved.lora.r == rows[0]["settings"]["lora.r"]
    assert resolved.train.learning_rate == rows[0]["settings"]["train.learning_rate"]
    adapter = json.loads((run / "adapter/adapter_config.json").read_text())
    assert adapter["r"] == resolved.lora.r
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["test_reads"] == 1
    summary = manifest["stages"]["train"]["summary"]
    assert summary["best_validation_loss"] == losses[0]

    test = {row.example_id for row in read_examples(run / "data/test.parquet")}
    readers = [
        path
        for path in run.rglob("predictions/*.jsonl")
        if test & {row.example_id for row in read_predictions(path)}
    ]
    assert readers and all(path.parent == run / "predictions" for path in readers)
    assert len(list((run / "sweep/states").iterdir())) <= 3, "losers' tensors are thrown away"
    report = (run / "report.md").read_text()
    assert "Chosen among 6 configurations by validation loss" in report
    assert "Only the winner answered test questions, once" in report
    assert "train_runtime (its share of the time in company)" in report
    page = (run / "sweep.html").read_text()
    assert page.count("<polyline") == 6 and page.count('class="is-winner"') == 1
    assert "<script" not in page and "http" not in re.sub(r"http-equiv", "", page)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}])
def test_the_adapter_is_the_one_that_was_chosen(
    lora: dict[str, Any], tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """Its loss is measured again from the files, after so long that the best is not the last."""
    recipe = write_sweep_recipe(
        tmp_path,
        tiny_llama_folder,
        sweep={"train.learning_rate": [1e-3, 1e-2]},
        train__epochs=40,
        **{f"lora__{name}": value for name, value in lora.items()},
    )
    winner, run = swept(recipe)["winner"], tmp_path / "run"
    assert lora or winner["best_step"] < winner["n_steps"]
    resolved = load_recipe(run / "recipe.yaml")
    pairs = make_encoder(resolved).pairs(read_examples(run / "data/validation.parquet"))
    base = load_model(resolved.model, choose_placement(resolved.model)).model
    batch = make_layout("causal", "longest_in_batch", pairs, pad_id=0, decoder_start_id=0)
    loss = mean_loss(load_adapter(base, run / "adapter"), [batch.batch(pairs)], torch.device("cpu"))
    assert loss == pytest.approx(winner["validation_loss"], rel=1e-5)


@pytest.mark.slow
def test_what_follows_a_sweep_is_an_ordinary_run(tiny_llama_folder: Path, tmp_path: Path) -> None:
    recipe, run = write_sweep_recipe(tmp_path, tiny_llama_folder), tmp_path / "run"
    swept(recipe)
    adapter = (run / "adapter/adapter_model.safetensors").stat().st_mtime_ns
    for verb, target in (("sweep", recipe), ("sweep", run), ("run", recipe), ("run", run)):
        again = invoke(verb, target)
        assert again.exit_code == 0, again.stderr
        assert "evaluate: unchanged, kept" in again.stderr
    assert invoke("evaluate", run, "--set", "evaluate.max_new_tokens=9").exit_code == 0
    (run / "report.html").unlink()
    assert invoke("report", run).exit_code == 0 and (run / "report.html").is_file()
    assert (run / "adapter/adapter_model.safetensors").stat().st_mtime_ns == adapter
    # More at a time is the same sweep; another space is not.
    assert invoke("sweep", recipe, "--set", "sweep_search.slots=1").exit_code == 0
    other = invoke("sweep", recipe, "--set", "sweep.lora.r=[2,8]")
    assert other.exit_code == 2 and "output_dir holds" in other.stderr


def test_a_run_that_was_trained_without_a_sweep_is_left_alone(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_sweep_recipe(tmp_path, tiny_llama_folder)
    assert invoke("train", recipe).exit_code == 0
    refused = invoke("sweep", recipe)
    assert refused.exit_code == 2
    assert "trained without a sweep" in refused.stderr and "output_dir=" in refused.stderr


def test_a_sweep_of_other_settings_is_not_gone_on_with(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_sweep_recipe(tmp_path, tiny_llama_folder)
    swept(recipe)
    folder = tmp_path / "again"
    folder.mkdir()
    (tmp_path / "run/sweep").rename(folder / "sweep")
    other = invoke("sweep", recipe, "--set", f"output_dir={folder}", "--set", "train.epochs=3")
    assert other.exit_code == 2
    assert "sweep of other settings or data" in other.stderr


@pytest.mark.parametrize("method", ["tpe", pytest.param("random", marks=pytest.mark.slow)])
def test_ranges_are_searched_with_halving(
    method: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_sweep_recipe(
        tmp_path,
        tiny_llama_folder,
        sweep={"train.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "lora.r": [2, 4]},
        search={"method": method, "n": 7, "ask": 3, "halving": {"eta": 2, "min_epochs": 1}},
    )
    result = swept(recipe)
    assert len(result["configurations"]) == 7
    statuses = [row["status"] for row in result["configurations"]]
    assert statuses.count("stopped") >= 2 and statuses[0] == "finished"
    assert swept(recipe)["configurations"] == result["configurations"]


def test_finalists_answer_validation_questions_and_the_best_answers_win(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_sweep_recipe(
        tmp_path, tiny_llama_folder, search={"select": "primary_metric", "finalists": 2}
    )
    result, run = swept(recipe), tmp_path / "run"
    measured = [row for row in result["configurations"] if "metric" in row]
    best_two = sorted(row["validation_loss"] for row in result["configurations"])[:2]
    assert sorted(row["validation_loss"] for row in measured) == best_two
    assert result["winner"]["metric"]["value"] == max(row["metric"]["value"] for row in measured)
    validation = {row.example_id for row in read_examples(run / "data/validation.parquet")}
    folders = list((run / "sweep/finalists").iterdir())
    assert len(folders) == 2
    for folder in folders:
        answers = read_predictions(folder / "predictions/adapted.jsonl")
        assert answers and {row.example_id for row in answers} <= validation
        assert not (folder / "data/test.parquet").exists()
    assert "chrF on 4 validation questions among the best" in (run / "report.md").read_text()
    assert json.loads((run / "manifest.json").read_text())["test_reads"] == 1


@pytest.mark.slow
def test_finalists_are_run_where_the_metric_counts_runs(
    tiny_llama_folder: Path, tmp_path: Path, sandbox: None
) -> None:
    recipe = write_sweep_recipe(
        tmp_path, tiny_llama_folder, search={"select": "primary_metric", "finalists": 2}
    )
    metric = ("--set", "evaluate.primary_metric=runs_clean")
    refused = invoke("sweep", recipe, *metric)
    assert refused.exit_code == 3 and "select=validation_loss" in refused.stderr
    result = swept(recipe, *metric, "--set", "evaluate.run_answers=true")
    assert sum("metric" in row for row in result["configurations"]) == 2
    for folder in (tmp_path / "run/sweep/finalists").iterdir():
        assert len((folder / "executions.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_what_cannot_share_a_row_trains_one_at_a_time(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_sweep_recipe(
        tmp_path,
        tiny_llama_folder,
        sweep={"lora.use_dora": [False, True], "lora.init": ["default", "pissa"]},
    )
    outcome = invoke("sweep", recipe)
    assert outcome.exit_code == 0, outcome.stderr
    assert "3 configurations cannot share a row" in outcome.stderr
    table = json.loads((tmp_path / "run/sweep/table.json").read_text())
    assert [row["status"] for row in table["rows"]] == ["finished"] * 4


@pytest.mark.slow
def test_killed_twice_a_sweep_ends_as_if_nothing_had_happened(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """Optuna's choices, two generations, three slots for four: all of it is found again.

    To the last bit, so each part runs in a process like every other.  High rates blow up a
    difference in the last bit, such as another number of threads makes, within a few steps.
    """
    found = []
    for name, kills in (("whole", ()), ("killed", (5, 16))):
        (tmp_path / name).mkdir()
        recipe = write_sweep_recipe(
            tmp_path / name,
            tiny_llama_folder,
            sweep={
                "lora.r": RANKS,
                "lora.dropout": [0.0, 0.1],
                "train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
            },
            search={
                "method": "tpe",
                "n": 8,
                "ask": 4,
                "slots": 3,
                "halving": {"eta": 2, "min_epochs": 2},
            },
            train__epochs=8,
        )
        progress = tmp_path / name / "run/sweep/progress.json"
        for kill in kills:
            process = _start(recipe)
            while process.poll() is None and _validations(progress) < kill:
                time.sleep(0.005)
            assert process.poll() is None, process.communicate()[1].decode()
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert _validations(progress) >= kill, "what was on disk stayed there"
        last = _start(recipe)
        printed, news = last.communicate()
        assert last.returncode == 0, news.decode()
        table = json.loads(printed)["configurations"]
        learned = [row["evaluations"] for row in json.loads(progress.read_text())["results"]]
        found.append(([_but_seconds(row) for row in table], learned))
    whole, killed = found
    assert killed[0] == whole[0]
    assert killed[1] == whole[1]


def _start(recipe: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _SWEEP, "sweep", str(recipe), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def _validations(progress: Path) -> int:
    if not progress.is_file():
        return 0
    return sum(len(row["evaluations"]) for row in json.loads(progress.read_text())["results"])


def _but_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def test_a_recipe_with_a_sweep_still_runs_and_plans_by_its_own_values(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_sweep_recipe(tmp_path, tiny_llama_folder)
    plan = json.loads(invoke("plan", recipe, "--json").stdout)
    assert plan["n_steps"] == 6
    assert plan["sweep"]["n_configurations"] == 6 and plan["sweep"]["n_steps"] == 36
    assert plan["sweep"]["real_tokens"] == 6 * plan["real_tokens"]
    assert "all configurations" in invoke("plan", recipe).stdout
    assert invoke("prepare", recipe).exit_code == 0
    content = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert content["sweep"]["lora.r"] == RANKS


def test_the_plan_says_what_halving_saves_and_counts_what_is_made(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """Batch sizes differ, so steps do: 3 or 2 an epoch, of twelve rows."""
    recipe = write_sweep_recipe(
        tmp_path,
        tiny_llama_folder,
        sweep={"train.batch_size": [4, 6], "train.learning_rate": [1e-3, 1e-2]},
        search={"halving": {"eta": 2, "min_epochs": 1}},
    )
    plan = json.loads(invoke("plan", recipe, "--json").stdout)["sweep"]
    assert plan["n_configurations"] == 4 and plan["times_one_training"] == 3
    assert plan["n_steps"] == 2 * (3 + 2) + 1 * (3 + 2)
    assert "one in 2 goes on after 1 epoch" in plan["halving"]
    made = sum(row["steps"] for row in swept(recipe)["configurations"])
    assert abs(made - plan["n_steps"]) <= 1, "who goes on decides the batch size"


def test_a_space_that_cannot_be_searched_is_said_in_the_plan(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_sweep_recipe(
        tmp_path, tiny_llama_folder, sweep={"lora.r": {"low": 2, "high": 8}}
    )
    refused = invoke("plan", recipe)
    assert refused.exit_code == 2 and "a grid has no end" in refused.stderr


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (400, "light")])
@pytest.mark.browser
def test_the_page_fits_and_says_nothing_to_the_console(
    width: int,
    theme: str,
    browser: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    page = tmp_path / "sweep.html"
    page.write_text(render_sweep(_hostile_table()))
    open_page(browser, page, width=width, theme=theme)
    assert not console(browser)
    assert not is_wider_than_window(browser)
    assert browser.execute_script("return document.querySelectorAll('polyline').length") == 40
    assert not browser.execute_script(
        "return document.querySelectorAll('main b, main script').length"
    )


def _hostile_table() -> dict[str, Any]:
    """Forty configurations of eight settings, one of them with markup for a value."""
    rows = [
        {
            "rank": number + 1,
            "number": number,
            "settings": {
                **{f"lora.setting_{axis}": (number * axis) % 5 for axis in range(7)},
                "lora.target_modules": ["<b>x</b>"] if number % 2 else "<script>1</script>",
            },
            "status": "diverged" if number == 39 else "stopped" if number > 12 else "finished",
            "reason": "<b>lost</b>" if number > 12 else "",
            "steps": 10,
            "n_steps": 30,
            "validation_loss": None if number == 39 else 1 + number / 10,
            "best_step": 10,
            "seconds": 1.0,
        }
        for number in range(40)
    ]
    return {
        "n_configurations": 40,
        "chosen": 0,
        "settings": rows[0]["settings"],
        "select": "validation_loss",
        "validation_loss": 1.0,
        "n_validation": 9,
        "rows": rows,
    }
