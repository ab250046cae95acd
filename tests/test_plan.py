"""The plan: numbers that can be checked before a minute is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test_main_job import invoke, write_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def test_the_original_run_is_planned_to_the_last_flop(shared_data: Path) -> None:
    outcome = invoke(
        "plan", RECIPES / "original.yaml", "--json",
        "--set", f"data.source={shared_data / 'python-codes-260.jsonl'}",
        "--set", f"model.name_or_path={shared_data / 'codet5-base'}",
        "--set", "model.init=random",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    plan = json.loads(outcome.stdout)
    expected = {
        "trainable_parameters": 884736,
        "total_parameters": 223766784,
        "trainable_percent": 0.3954,
        "n_train": 40,
        "n_validation": 10,
        "n_test": 50,
        "n_steps": 500,
        "max_source_tokens": 19,
        "total_flos": 90795626496000,
    }
    assert {name: plan[name] for name in expected} == expected
    # Each token meets at most all weights that are not embeddings or adapters, four times.
    assert 0 < plan["model_flops"] < 6 * plan["real_tokens"] * plan["total_parameters"]


@pytest.mark.parametrize("padding", ["packed", "longest_in_batch", "longest_in_data"])
def test_the_plan_foretells_what_training_then_does(
    padding: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder, train__padding=padding)
    plan = json.loads(invoke("plan", recipe, "--json").stdout)
    assert not (tmp_path / "run").exists(), "a plan writes nothing"
    trained = invoke("train", recipe, "--json")
    summary = json.loads(trained.stdout)
    for name in ("n_steps", "supervised_tokens", "real_tokens", "padded_tokens", "total_flos",
                 "model_flops"):  # fmt: skip
        assert plan[name] == summary[name], name
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    for name in ("trainable_parameters", "total_parameters", "trainable_percent", "coverage"):
        assert plan[name] == manifest["model"][name]


def test_the_plan_shows_one_example_with_its_mask(tiny_llama_folder: Path, tmp_path: Path) -> None:
    plan = json.loads(invoke("plan", write_recipe(tmp_path, tiny_llama_folder), "--json").stdout)
    example = plan["example"]
    assert "Write a function to" in example["prompt"]
    assert example["supervised"].startswith("def ") and "<|im_end|>" in example["supervised"]
    assert sum(example["loss_mask"]) == example["supervised_tokens"]
    assert len(example["loss_mask"]) == example["prompt_tokens"] + example["supervised_tokens"]
    words = invoke("plan", tmp_path / "recipe.yaml")
    assert words.exit_code == 0 and "LoRA coverage" in words.stdout


def test_pairs_over_the_limit_are_dropped_and_counted_never_cut(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    rows = (tmp_path / "rows.jsonl").read_text()
    long = json.dumps({"instruction": "Long.", "output": "x = 1\n" * 400})
    (tmp_path / "rows.jsonl").write_text(long + "\n" + rows)
    plan = json.loads(invoke("plan", recipe, "--json", "--set", "data.max_pair_tokens=300").stdout)
    assert plan["dropped"]["drop_too_long"] == 1
    assert plan["max_target_tokens"] < 300


def test_a_plan_of_very_many_epochs_takes_seconds_and_counts_them_all(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veritune import plan as module

    recipe = write_recipe(tmp_path, tiny_llama_folder, train__padding="longest_in_data")
    exact = json.loads(invoke("plan", recipe, "--json").stdout)
    monkeypatch.setattr(module, "_LAID_OUT_PAIRS", 100)
    many = json.loads(invoke("plan", recipe, "--json", "--set", "train.epochs=1000000").stdout)
    for name in ("n_steps", "supervised_tokens", "real_tokens", "padded_tokens"):
        assert many[name] == exact[name] * 500_000, name


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.quantization=4bit", "CUDA"),
        ("train.engine=captured", "recorded on CUDA only"),
        ("train.processes=7", "train.processes: 7"),
    ],
)
def test_what_this_machine_cannot_do_is_planned_and_refused_before_any_work(
    setting: str, said: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder, model__device="cpu")
    asked = ("--set", setting)
    plan = json.loads(invoke("plan", recipe, *asked, "--json").stdout)
    assert len(plan["not_on_this_machine"]) == 1 and said in plan["not_on_this_machine"][0]
    assert "not on this machine:" in invoke("plan", recipe, *asked).stdout
    refused = invoke("run", recipe, *asked)
    assert refused.exit_code == 3 and said in refused.stderr
    assert not (tmp_path / "run/data").exists()
