"""From raw rows to an adapter and a report, through the command line, on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tiny_models import build_model
from veritune.cli import app
from veritune.rows import read_examples, read_predictions, read_scores
from veritune.train.log import read_log

VERBS = ["add", "subtract", "multiply", "divide", "sort", "reverse", "count", "print", "filter"]
THINGS = ["numbers", "words", "lines", "files", "rows"]


def rows() -> list[dict[str, str]]:
    """Forty-five pairs with a pattern."""
    return [
        {
            "instruction": f"Write a function to {verb} {thing}.",
            "output": f"def {verb}_{thing}(x):\n    return {verb}(x, '{thing}')\n",
        }
        for verb in VERBS
        for thing in THINGS
    ]


def write_rows(path: Path) -> Path:
    """The rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


def write_recipe(folder: Path, model: Path, **changes: Any) -> Path:
    """A quick recipe beside its data."""
    content = {
        "output_dir": str(folder / "run"),
        "model": {"name_or_path": str(model), "dtype": "float32"},
        "data": {
            "source": str(write_rows(folder / "rows.jsonl")),
            "split": {"method": "head", "train": 8, "validation": 5, "test": 32},
        },
        "lora": {"r": 4, "dropout": 0.0},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
        "evaluate": {"max_new_tokens": 24, "resamples": 500},
    }
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            content[section][key] = value  # type: ignore[index]
        else:
            content[section] = value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def invoke(*arguments: object) -> Any:
    """Run a verb in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERITUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_qwen2_folder"])
def test_run_writes_everything_a_run_directory_promises(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    padding = "packed" if "llama" in fixture else "max_length"
    recipe = write_recipe(tmp_path, request.getfixturevalue(fixture), train__padding=padding)
    outcome = invoke("run", recipe, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    run = tmp_path / "run"
    promised = [
        "recipe.yaml", "manifest.json", "data/train.parquet", "data/validation.parquet",
        "data/test.parquet", "data/card.json", "data/card.html", "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors", "train_log.jsonl", "predictions/baseline.jsonl",
        "predictions/few_shot.jsonl", "predictions/retrieval.jsonl", "predictions/adapted.jsonl",
        "scores.parquet", "comparison.json", "report.html", "report.md",
    ]  # fmt: skip
    assert not [name for name in promised if not (run / name).is_file()]
    assert result["sentence"] in (run / "report.md").read_text()
    assert yaml.safe_load((run / "recipe.yaml").read_text())["evaluate"]["primary_metric"] == "chrf"

    test = {row.example_id for row in read_examples(run / "data/test.parquet")}
    assert len(test) == 32
    for system in ("baseline", "few_shot", "retrieval", "adapted"):
        answered = {row.example_id for row in read_predictions(run / f"predictions/{system}.jsonl")}
        assert test <= answered
    scored = {(row.system, row.metric) for row in read_scores(run / "scores.parquet")}
    assert {("adapted", "chrf"), ("retrieval", "parse_rate"), ("baseline", "rougeL")} <= scored
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["test_reads"] == 1
    assert manifest["versions"]["torch"] == torch.__version__


def test_a_second_run_skips_every_stage_and_new_settings_redo_only_theirs(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    first = invoke("run", recipe)
    assert first.exit_code == 0, first.stderr
    adapter = (tmp_path / "run/adapter/adapter_model.safetensors").stat().st_mtime_ns
    again = invoke("run", recipe)
    for stage in ("prepare", "train", "evaluate"):
        assert f"{stage}: unchanged, kept" in again.stderr
    shorter = invoke("run", recipe, "--set", "evaluate.max_new_tokens=8")
    assert shorter.exit_code == 0, shorter.stderr
    assert "train: unchanged, kept" in shorter.stderr
    assert "evaluate: unchanged" not in shorter.stderr
    answers = read_predictions(tmp_path / "run/predictions/baseline.jsonl")
    assert max(row.n_new_tokens for row in answers) <= 8
    assert (tmp_path / "run/adapter/adapter_model.safetensors").stat().st_mtime_ns == adapter


def test_changed_data_is_noticed(tiny_llama_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    assert invoke("prepare", recipe).exit_code == 0
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(reversed(source.read_text().splitlines(keepends=True))))
    again = invoke("prepare", recipe)
    assert "unchanged" not in again.stderr
    first = read_examples(tmp_path / "run/data/train.parquet")[0]
    assert first.instruction == rows()[-1]["instruction"]


def test_data_that_changed_after_training_is_refused_and_the_run_kept(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    assert invoke("run", recipe).exit_code == 0
    kept = (tmp_path / "run/data/train.parquet").read_bytes()
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(reversed(source.read_text().splitlines(keepends=True))))
    refused = invoke("run", recipe)
    assert refused.exit_code == 2
    assert "data source has changed since training began" in refused.stderr
    assert (tmp_path / "run/data/train.parquet").read_bytes() == kept


def test_verbs_one_by_one_from_the_run_directory(tiny_llama_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    counts = json.loads(invoke("prepare", recipe, "--json").stdout)
    assert (counts["n_train"], counts["n_validation"], counts["n_test"]) == (8, 5, 32)
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    summary = json.loads(invoke("train", moved, "--json").stdout)
    assert summary["global_step"] == 4
    conclusion = json.loads(invoke("evaluate", moved, "--json").stdout)
    assert conclusion["verdict"] in ("better", "worse", "no difference detected", "not measured")
    pages = json.loads(invoke("report", moved, "--json").stdout)
    assert Path(pages["report_html"]) == moved / "report.html"
    assert not (tmp_path / "run").exists()

    recipe_there = (moved / "recipe.yaml").read_bytes()
    assert invoke("report", moved, "--set", "evaluate.max_new_tokens=9").exit_code == 0
    assert (moved / "recipe.yaml").read_bytes() == recipe_there, "numbers keep their settings"
    (moved / "recipe.yaml").write_text("")
    emptied = invoke("evaluate", moved)
    assert emptied.exit_code == 2 and "the run's recipe is empty" in emptied.stderr


@pytest.mark.slow
def test_a_small_t5_memorises_a_handful_of_rows_and_the_report_shows_the_gap(
    tmp_path: Path,
) -> None:
    model = build_model("t5", tmp_path / "t5", size=96, t5_dropout=0.0)
    recipe = write_recipe(
        tmp_path,
        model,
        lora={"r": 32, "alpha": 64, "dropout": 0.0, "target_modules": "all-linear"},
        train={
            "epochs": 300,
            "batch_size": 8,
            "learning_rate": 5e-3,
            "schedule": "cosine",
            "eval_steps": 50,
            "keep": "last",
        },
        evaluate={"max_new_tokens": 40},
    )
    outcome = invoke("run", recipe, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    run = tmp_path / "run"
    evaluations = [e for e in read_log(run / "train_log.jsonl") if e["event"] == "evaluation"]
    assert evaluations[-1]["training_loss"] < 0.1
    assert evaluations[-1]["validation_loss"] > 1
    train = {row.example_id: row for row in read_examples(run / "data/train.parquet")}
    answers = [
        r for r in read_predictions(run / "predictions/adapted.jsonl") if r.example_id in train
    ]
    assert len(answers) == 8
    assert all(row.code.strip() == train[row.example_id].reference.strip() for row in answers)
    gap = {row["metric"]: row for row in json.loads((run / "comparison.json").read_text())["gap"]}
    assert gap["exact_match"]["adapted_train"] == 100
    assert gap["exact_match"]["adapted_test"] < 50
    page = (run / "report.html").read_text()
    assert "It reproduces 100 % of its training answers" in page


def test_tensorboard_gets_the_losses(tiny_llama_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recipe = write_recipe(tmp_path, tiny_llama_folder, report_to=["tensorboard"])
    outcome = invoke("train", recipe)
    assert outcome.exit_code == 0, outcome.stderr
    assert list((tmp_path / "run" / "trackers").rglob("events.out.tfevents*"))
