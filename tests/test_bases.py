"""Several base models: adapted on the same rows, chosen on validation, one meets test."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from distinct_rows import N_TEST, own_cache, write_distinct_recipe  # noqa: F401
from test_main_job import invoke
from veritune.pipeline import choose_base
from veritune.pipeline.context import Context
from veritune.recipe_file import load_recipe
from veritune.rows import read_examples, read_predictions


@pytest.fixture
def recipe(
    tiny_llama_folder: Path,
    tiny_qwen2_folder: Path,
    tmp_path: Path,
    own_cache: None,  # noqa: F811
) -> Path:
    path = write_distinct_recipe(tmp_path, tiny_llama_folder)
    content = yaml.safe_load(path.read_text())
    content["model"]["name_or_path"] = [str(tiny_llama_folder), str(tiny_qwen2_folder)]
    path.write_text(yaml.safe_dump(content))
    return path


def ids(path: Path) -> set[str]:
    return {row.example_id for row in read_predictions(path)}


@pytest.mark.slow
def test_the_best_on_validation_becomes_the_run(recipe: Path, tmp_path: Path) -> None:
    outcome = invoke("run", recipe)
    assert outcome.exit_code == 0, outcome.stderr
    run = tmp_path / "run"
    found: dict[str, Any] = json.loads((run / "comparison.json").read_text())["bases"]
    assert found["candidates"] == yaml.safe_load(recipe.read_text())["model"]["name_or_path"]
    best = max(found["rows"], key=lambda row: row["adapted"]["value"])
    assert found["chosen"] == best["name"]
    for row in found["rows"]:
        assert row["total_parameters"] > row["trainable_parameters"] > 0
        assert row["train_seconds"] > 0 and row["adapter_bytes"] > 1000
        assert row["zero_shot"]["value"] >= 0

    winner = run / "bases" / best["folder"]
    for name in ("adapter/adapter_model.safetensors", "train_log.jsonl"):
        assert (run / name).read_bytes() == (winner / name).read_bytes()
    assert load_recipe(run / "recipe.yaml").model.name_or_path == best["name"]

    splits = {
        split: {row.example_id for row in read_examples(run / f"data/{split}.parquet")}
        for split in ("train", "validation", "test")
    }
    for folder in (run / "bases").iterdir():
        for split in ("train", "validation"):
            data = read_examples(folder / f"data/{split}.parquet")
            assert {row.example_id for row in data} == splits[split]
        assert not (folder / "data/test.parquet").exists()
        for system in ("baseline", "adapted"):
            assert ids(folder / f"predictions/{system}.jsonl") == splits["validation"]
    assert splits["test"] <= ids(run / "predictions/adapted.jsonl")
    kept = {row.example_id: row for row in read_predictions(winner / "predictions/baseline.jsonl")}
    reused = {row.example_id: row for row in read_predictions(run / "predictions/baseline.jsonl")}
    assert all(reused[name] == row for name, row in kept.items())
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["test_reads"] == 1
    assert "Which base model" in (run / "report.md").read_text()


def test_a_metric_that_runs_answers_decides_by_running_them(
    recipe: Path,
    tmp_path: Path,
    sandbox: None,
    tiny_qwen2_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the second base's answers run; by any text metric the first, the references, wins."""
    through = choose_base.answers_of

    def answers_of(context: Context, wanted: Any) -> Any:
        second = context.recipe.model.name_or_path == str(tiny_qwen2_folder)
        references = {row.example_id: row.reference for row in wanted["adapted"]}
        return {
            system: [
                replace(row, code="print(1)" if second else references[row.example_id])
                for row in rows
            ]
            for system, rows in through(context, wanted).items()
        }

    monkeypatch.setattr(choose_base, "answers_of", answers_of)
    metric = ("--set", "evaluate.primary_metric=runs_clean")
    outcome = invoke("run", recipe, *metric)
    assert outcome.exit_code == 0, outcome.stderr
    found = json.loads((tmp_path / "run/comparison.json").read_text())["bases"]
    assert [row["adapted"]["value"] for row in found["rows"]] == [0.0, 100.0]
    assert found["chosen"] == str(tiny_qwen2_folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("evaluate.primary_metric=pass_at_1", "no validation question has tests"),
        ("evaluate.run_answers=false", "answers are not run"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_before_any_is_trained(
    change: str, words: str, recipe: Path, tmp_path: Path, sandbox: None
) -> None:
    changes = ("--set", "evaluate.primary_metric=runs_clean", "--set", change)
    refused = invoke("run", recipe, *changes)
    assert refused.exit_code in {2, 3} and words in refused.stderr
    assert "--set evaluate.primary_metric=chrf" in refused.stderr
    assert not (tmp_path / "run/bases").exists()
    assert invoke("run", recipe, "--set", "evaluate.primary_metric=chrf").exit_code == 0


@pytest.mark.slow
def test_the_recipe_with_its_list_still_means_the_run(recipe: Path, tmp_path: Path) -> None:
    assert invoke("run", recipe).exit_code == 0
    for target in (recipe, tmp_path / "run"):
        again = invoke("run", target)
        assert again.exit_code == 0, again.stderr
        for stage in ("prepare", "train", "evaluate"):
            assert f"{stage}: unchanged, kept" in again.stderr
    assert invoke("evaluate", recipe, "--set", "evaluate.max_new_tokens=9").exit_code == 0
    assert invoke("train", recipe).exit_code == 0
    content = yaml.safe_load(recipe.read_text())
    content["model"]["name_or_path"] = content["model"]["name_or_path"][::-1]
    recipe.write_text(yaml.safe_dump(content))
    refused = invoke("run", recipe)
    assert refused.exit_code == 2 and "another run" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["recipe", "adapter", "bases"])
def test_a_kill_anywhere_after_the_trainings_loses_nothing(
    gone: str, recipe: Path, tmp_path: Path
) -> None:
    """The states that a kill between two writes of the choice leaves behind."""
    assert invoke("run", recipe).exit_code == 0
    run = tmp_path / "run"
    manifest = json.loads((run / "manifest.json").read_text())
    chosen = manifest["bases"]["chosen"]
    # In every state neither the adapter nor what follows was there yet.
    shutil.rmtree(run / "adapter")
    del manifest["stages"]["train"]
    if gone != "adapter":
        content = yaml.safe_load((run / "recipe.yaml").read_text())
        content["model"]["name_or_path"] = manifest["bases"]["candidates"]
        (run / "recipe.yaml").write_text(yaml.safe_dump(content))
    if gone == "bases":
        del manifest["bases"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    again = invoke("run", recipe)
    assert again.exit_code == 0, again.stderr
    assert "training:" not in again.stderr, "the candidates were trained already"
    assert json.loads((run / "manifest.json").read_text())["bases"]["chosen"] == chosen
    assert (run / "adapter/adapter_config.json").is_file()


def test_verbs_that_need_one_model_say_so(recipe: Path) -> None:
    refused = invoke("train", recipe)
    assert refused.exit_code == 2
    assert "several to choose from" in refused.stderr and "veritune run" in refused.stderr


def test_the_plan_covers_every_base_and_prepares_once(recipe: Path, tmp_path: Path) -> None:
    plan = json.loads(invoke("plan", recipe, "--json").stdout)
    assert len(plan["bases"]) == 2
    assert plan["model"] == plan["bases"][0]["model"]
    assert all(base["n_steps"] == plan["n_steps"] for base in plan["bases"])
    words = invoke("plan", recipe)
    assert words.exit_code == 0 and words.stdout.count("one of several bases") == 2
    assert not (tmp_path / "run").exists()


def test_rows_too_long_for_any_base_are_dropped_for_all_and_counted(
    recipe: Path, tmp_path: Path, tiny_t5_folder: Path, tiny_llama_folder: Path
) -> None:
    """A T5 has no context limit; the tiny Llama holds 1,024 tokens."""
    lines = (tmp_path / "rows.jsonl").read_text()
    long = json.dumps({"instruction": "Long.", "output": "x = 1\n" * 2000})
    (tmp_path / "rows.jsonl").write_text(lines + long + "\n")
    names = f"[{tiny_t5_folder},{tiny_llama_folder}]"
    changes = ("--set", f"model.name_or_path={names}", "--set", "data.split.method=random",
               "--set", "data.split.train=null")  # fmt: skip
    plan = json.loads(invoke("plan", recipe, "--json", *changes).stdout)
    assert plan["dropped"] == {f"too_long_for {tiny_llama_folder}": 1}
    assert plan["n_train"] + plan["n_validation"] + plan["n_test"] == len(lines.splitlines())


def test_a_base_that_the_recipe_does_not_suit_is_refused_before_any_is_trained(
    recipe: Path, tmp_path: Path, tiny_t5_folder: Path, tiny_llama_folder: Path
) -> None:
    """Another encoder-decoder than T5 has no packed rows."""
    other = tmp_path / "umt5"
    shutil.copytree(tiny_t5_folder, other)
    config = json.loads((other / "config.json").read_text())
    config |= {"model_type": "umt5", "architectures": ["UMT5ForConditionalGeneration"]}
    (other / "config.json").write_text(json.dumps(config))
    names = f"[{tiny_llama_folder},{other}]"
    changes = ("--set", f"model.name_or_path={names}", "--set", "train.padding=packed")
    refused = invoke("run", recipe, *changes)
    assert refused.exit_code == 2
    assert "packed is for decoder models" in refused.stderr and str(other) in refused.stderr
    assert not (tmp_path / "run/bases").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("[]", "must not be empty"),
        ("[a, a]", "twice"),
        ('["", b]', "must not be empty"),
        ("[a, 3]", "valid string"),
    ],
)
def test_a_list_that_is_no_list_of_names_is_refused(names: str, words: str, recipe: Path) -> None:
    outcome = invoke("plan", recipe, "--set", f"model.name_or_path={names}")
    assert outcome.exit_code == 2
    assert words in outcome.stderr


def test_a_revision_belongs_to_one_model(recipe: Path) -> None:
    outcome = invoke("plan", recipe, "--set", "model.revision=abc")
    assert outcome.exit_code == 2
    assert "revision belongs to one base model" in outcome.stderr
