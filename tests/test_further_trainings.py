"""Several seeds and a learning curve, from the recipe to the report, on a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from distinct_rows import N_TEST, N_TRAIN, own_cache, write_distinct_recipe  # noqa: F401
from test_main_job import invoke
from veritune.rows import read_examples, read_predictions

VERITUNE = Path(sys.executable).with_name("veritune")


def conclusion(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run/comparison.json").read_text()))


def weights(run: Path) -> bytes:
    return (run / "adapter/adapter_model.safetensors").read_bytes()


@pytest.fixture
def recipe(tiny_llama_folder: Path, tmp_path: Path, own_cache: None) -> Path:  # noqa: F811
    return write_distinct_recipe(tmp_path, tiny_llama_folder)


@pytest.mark.slow
def test_seeds_and_curve_in_one_run(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = invoke("run", recipe)
    assert first.exit_code == 0, first.stderr
    before, main = conclusion(tmp_path), weights(run)

    outcome = invoke("run", recipe, "--curve", "4,8,900", "--set", "seeds=[0, 5, 6]")
    assert outcome.exit_code == 0, outcome.stderr
    assert "train: unchanged, kept" in outcome.stderr
    assert "900 left out" in outcome.stderr
    assert weights(run) == main
    others = [weights(run / f"seeds/{seed}") for seed in (5, 6)]
    assert len({main, *others}) == 3, "each seed trains an adapter of its own"
    test = {row.example_id for row in read_examples(run / "data/test.parquet")}
    for folder in ("seeds/5", "seeds/6", "curve/4", "curve/8"):
        answers = read_predictions(run / folder / "predictions/adapted.jsonl")
        assert {row.example_id for row in answers} == test
    train, four, eight = (
        {row.example_id for row in read_examples(path / "data/train.parquet")}
        for path in (run, run / "curve/4", run / "curve/8")
    )
    assert four < eight < train and (len(four), len(eight)) == (4, 8)
    copied = {row.raw for row in read_predictions(run / "curve/4/predictions/retrieval.jsonl")}
    assert copied <= {row.reference for row in read_examples(run / "curve/4/data/train.parquet")}

    found = conclusion(tmp_path)
    assert found["seeds"]["seeds"] == [0, 5, 6]
    assert [row["n_rows"] for row in found["learning_curve"]["rows"]] == [4, 8, N_TRAIN]
    chrf = next(row for row in found["seeds"]["metrics"] if row["metric"] == "chrf")
    old = next(row for row in before["comparisons"] if row["metric"] == "chrf")
    assert chrf["values"][0] == pytest.approx(old["value"])
    assert "3 training seeds" in found["sentence"]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["test_reads"] == 5, "every adapter that met the test questions is counted"
    report = (run / "report.md").read_text()
    assert found["learning_curve"]["sentence"].split(":")[0] in report
    assert found["seeds"]["sentence"] in report

    again = invoke("run", recipe, "--curve", "4,8,900", "--set", "seeds=[0, 5, 6]")
    assert again.stderr.count("train: unchanged, kept") == 5
    assert "evaluate: unchanged, kept" in again.stderr
    assert "answers of" not in again.stderr
    plain = invoke("evaluate", run, "--set", "seeds=[]", "--set", "evaluate.curve=[]", "--json")
    assert plain.exit_code == 0, plain.stderr
    assert json.loads(plain.stdout)["comparisons"] == before["comparisons"]
    assert "answers of adapted: done" not in plain.stderr


def test_the_first_of_the_seeds_trains_the_main_adapter_and_cannot_change(
    recipe: Path, tmp_path: Path
) -> None:
    assert invoke("train", recipe).exit_code == 0
    refused = invoke("train", recipe, "--set", "seeds=[3, 4]")
    assert refused.exit_code == 2
    assert "the training seed: 0 there, 3 here" in refused.stderr
    other = tmp_path / "other"
    assert (
        invoke("train", recipe, "--set", "seeds=[3]", "--set", f"output_dir={other}").exit_code == 0
    )
    assert weights(other) != weights(tmp_path / "run")
    for split in ("train", "validation", "test"):
        one, two = (
            read_examples(path / f"data/{split}.parquet") for path in (other, tmp_path / "run")
        )
        assert one == two, "the split follows seed, not seeds"


def test_the_same_seed_twice_is_refused(recipe: Path) -> None:
    outcome = invoke("run", recipe, "--set", "seeds=[1, 1]")
    assert outcome.exit_code == 2
    assert "named twice" in outcome.stderr


def test_a_curve_that_is_no_list_of_sizes_is_refused(recipe: Path) -> None:
    for wrong in ("few", "0", "1.5", "8,8"):
        outcome = invoke("evaluate", recipe, "--curve", wrong)
        assert outcome.exit_code == 2
        assert "evaluate.curve" in outcome.stderr


@pytest.mark.slow
def test_sub_runs_of_an_earlier_recipe_are_made_again(recipe: Path, tmp_path: Path) -> None:
    run, seeds = tmp_path / "run", ("--set", "seeds=[0, 1]")
    assert invoke("run", recipe, *seeds).exit_code == 0
    for name in ("adapter", "checkpoints"):
        shutil.rmtree(run / name)
    again = invoke("run", recipe, *seeds, "--set", "lora.r=2")
    assert again.exit_code == 0, again.stderr
    assert "belongs to other data or settings; made again" in again.stderr
    config = json.loads((run / "seeds/1/adapter/adapter_config.json").read_text())
    assert config["r"] == 2


@pytest.mark.slow
def test_a_killed_further_training_goes_on_where_it_was(
    tiny_llama_folder: Path,
    tmp_path: Path,
    own_cache: None,  # noqa: F811
) -> None:
    recipe = write_distinct_recipe(tmp_path, tiny_llama_folder)
    content = yaml.safe_load(recipe.read_text())
    content["seeds"] = [0, 1]
    content["train"] = {"epochs": 60, "batch_size": 4, "checkpoint_steps": 15, "eval_steps": 50}
    recipe.write_text(yaml.safe_dump(content))
    process = subprocess.Popen(
        [VERITUNE, "run", str(recipe)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    sub_run = tmp_path / "run/seeds/1"
    deadline = time.monotonic() + 120
    while not list(sub_run.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (sub_run / "adapter").exists(), "killed too late to mean anything"
    again = invoke("run", recipe)
    assert again.exit_code == 0, again.stderr
    assert "[seed 1, 2 of 2] resuming training after step" in again.stderr

    straight = tmp_path / "straight"
    assert invoke("run", recipe, "--set", f"output_dir={straight}").exit_code == 0
    assert weights(straight / "seeds/1") == weights(sub_run)
