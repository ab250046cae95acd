"""Systems that compete: merged, fully fine-tuned, other people's adapters; and the claims."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from test_main_job import invoke, write_recipe
from tiny_models import build_model
from veritune.config import ModelSection, Recipe
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.pipeline.full_finetune import full_learning_rate
from veritune.rows import read_predictions
from veritune.train.log import read_log
from veritune.train.loop import Training

CPU = Placement(torch.device("cpu"), torch.float32)
WEIGHTS = "full_finetune/model.safetensors"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERITUNE_CACHE", str(tmp_path / "cache"))


def _recipe(folder: Path, model: Path, *systems: str, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    evaluate = {
        "systems": ["baseline", "adapted", *systems],
        "max_new_tokens": 8,
        "resamples": 200,
        "latency_rounds": 2,
        **changes.pop("evaluate", {}),
    }
    settings = {"train__learning_rate": 1e-2, "train__log_steps": 1, **changes}
    return write_recipe(folder, model, evaluate=evaluate, **settings)


def _answers(run: Path, system: str) -> dict[str, str]:
    return {
        row.example_id: row.raw for row in read_predictions(run / f"predictions/{system}.jsonl")
    }


def _claims(run: Path) -> dict[str, dict[str, Any]]:
    content = json.loads((run / "comparison.json").read_text())
    return {row["claim"]: row for row in content["claims"]}


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_t5_folder"])
def test_merged_and_full_fine_tuning_compete_on_the_same_terms(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(fixture)
    padding = "packed" if "llama" in fixture else "longest_in_batch"
    outcome = invoke(
        "run",
        _recipe(tmp_path, folder, "merged", "full_finetune", train__padding=padding),
        "--json",
    )
    assert outcome.exit_code == 0, outcome.stderr
    run = tmp_path / "run"
    conclusion = json.loads((run / "comparison.json").read_text())
    assert {row["against"] for row in conclusion["comparisons"]} == {
        *("baseline", "merged", "full_finetune")
    }
    assert conclusion["best_baseline_choice"]["split"] == "validation"
    assert conclusion["best_baseline_choice"]["values"].keys() == {"baseline", "full_finetune"}

    assert _answers(run, "merged") == _answers(run, "adapted")
    assert _answers(run, "full_finetune") != _answers(run, "baseline")

    base = load_model(ModelSection(name_or_path=str(folder)), CPU).model.state_dict()
    trained = load_model(ModelSection(name_or_path=str(run / "full_finetune")), CPU).model
    moved = {name for name, t in trained.state_dict().items() if not torch.equal(t, base[name])}
    assert any("norm" in name for name in moved) and any("embed" in name for name in moved)

    logs = [read_log(run / name) for name in ("train_log.jsonl", "full_finetune/train_log.jsonl")]
    seen = [[(e["step"], e["tokens"]) for e in log if e["event"] == "step"] for log in logs]
    assert seen[0] == seen[1] and len(seen[0]) == 4
    rates = [[e["learning_rate"] for e in log if e["event"] == "step"] for log in logs]
    assert rates[1] == pytest.approx([rate / 10 for rate in rates[0]])
    ends = [log[-1] for log in logs]
    assert ends[0]["supervised_tokens"] == ends[1]["supervised_tokens"]
    # 6 for every multiplied weight and token, where a frozen one costs 4.
    assert ends[0]["model_flops"] < ends[1]["model_flops"] < 1.5 * ends[0]["model_flops"]
    assert not (run / "checkpoints/full_finetune").exists()

    claims = _claims(run)
    counted = claims["few trainable weights"]
    adapter = load_file(run / "adapter/adapter_model.safetensors")
    assert counted["ours"] == sum(tensor.numel() for tensor in adapter.values())
    assert counted["against"] == sum(p.numel() for p in trained.parameters())
    assert claims["less memory to train"]["against"] > 0
    speed = claims["more tokens a second"]
    assert speed["ratio"] == pytest.approx(1 / claims["faster to train"]["ratio"])
    quality = claims["quality kept"]
    [row] = [
        row
        for row in conclusion["comparisons"]
        if (row["against"], row["metric"]) == ("full_finetune", "chrf")
    ]
    assert (quality["delta"], quality["ci_low"]) == (row["delta"], row["ci_low"])
    assert claims["no extra latency once merged"]["ratio"] > 0
    page = (run / "report.html").read_text()
    assert "What LoRA promised" in page and "Full fine-tuning</b>: all weights" in page
    assert "## What LoRA promised" in (run / "report.md").read_text()

    again = invoke("run", tmp_path / "recipe.yaml")
    assert "evaluate: unchanged, kept" in again.stderr
    other_rate = ("--set", "train.full_learning_rate=1e-4")
    redone = invoke("evaluate", run, *other_rate)
    assert redone.exit_code == 0, redone.stderr
    assert "learning rate 0.0001" in redone.stderr
    assert "answers of merged: unchanged" in redone.stderr
    assert "train: unchanged, kept" in invoke("train", run, *other_rate).stderr


def test_the_learning_rate_of_full_fine_tuning_is_a_setting_and_the_plan_says_it(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    assert full_learning_rate(Recipe()) == pytest.approx(5e-5)
    recipe = _recipe(tmp_path, tiny_llama_folder, "full_finetune")
    plan = json.loads(invoke("plan", recipe, "--json").stdout)
    assert plan["full_finetune_learning_rate"] == pytest.approx(1e-3)
    chosen = ("--set", "train.full_learning_rate=2e-5")
    plan = json.loads(invoke("plan", recipe, "--json", *chosen).stdout)
    assert plan["full_finetune_learning_rate"] == 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_fine_tuning_broken_off_ends_with_the_same_weights(
    dtype: str, tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train__checkpoint_steps": 1, "train__full_learning_rate": 1e-5}
    whole = _recipe(tmp_path / "whole", tiny_llama_folder, "full_finetune", **settings)
    parts = _recipe(tmp_path / "parts", tiny_llama_folder, "full_finetune", **settings)
    precise = ("--set", f"model.dtype={dtype}")
    assert invoke("run", whole, *precise).exit_code == 0

    assert invoke("train", parts, *precise).exit_code == 0
    step = Training._step

    def killed(self: Training, *arguments: Any) -> Any:
        if arguments[2].step == 2:
            raise SystemExit(137)
        return step(self, *arguments)

    monkeypatch.setattr(Training, "_step", killed)
    run = tmp_path / "parts/run"
    assert invoke("evaluate", run).exit_code == 137
    assert (run / "checkpoints/full_finetune/step-00000002").is_dir()
    # In bf16 an update at a rate of 1e-5 would be rounded away.
    state = load_file(run / "checkpoints/full_finetune/step-00000002/trainable.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert not (run / "full_finetune").exists()
    monkeypatch.setattr(Training, "_step", step)
    resumed = invoke("evaluate", run)
    assert resumed.exit_code == 0, resumed.stderr
    assert "resuming training after step 2" in resumed.stderr
    expected, found = load_file(tmp_path / "whole/run" / WEIGHTS), load_file(run / WEIGHTS)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert next(iter(found.values())).dtype == getattr(torch, dtype)
    record = json.loads((run / "manifest.json").read_text())["stages"]["full_finetune"]
    assert record["summary"]["resumed_after_step"] == 2
    assert record["summary"]["peak_memory_steps"] == 2


@pytest.mark.slow
def test_other_adapters_answer_beside_ours_and_are_named_after_their_runs(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    first = _recipe(tmp_path / "one", tiny_llama_folder)
    assert invoke("run", first, "--set", "lora.target_modules=all-linear").exit_code == 0
    other = tmp_path / "one/run"
    recipe = _recipe(tmp_path / "two", tiny_llama_folder)
    assert invoke("run", recipe).exit_code == 0
    run = tmp_path / "two/run"
    before = _answers(run, "adapted")
    asked = invoke(
        "evaluate", run, "--adapter", other, "--adapter", run / "adapter", "--set",
        "evaluate.batch_size=8", "--json",
    )  # fmt: skip
    assert asked.exit_code == 0, asked.stderr
    conclusion = json.loads(asked.stdout)
    assert {row["against"] for row in conclusion["comparisons"]} == {
        *("baseline", "adapter:run", "adapter:run-2")
    }
    assert conclusion["best_baseline_choice"]["values"].keys() >= {"adapter:run"}
    # Nobody's weights were disturbed by loading a third one.
    assert _answers(run, "adapted") == before
    own, theirs = _answers(run, "adapter:run-2"), _answers(run, "adapter:run")
    shared = own.keys() & before.keys()
    assert len(shared) == 32 and all(own[name] == before[name] for name in shared)
    assert all(theirs[name] == _answers(other, "adapted")[name] for name in shared)
    report = invoke("report", run)
    assert report.exit_code == 0 and "Adapter run-2" in (run / "report.html").read_text()
    # Not asked for any more: kept on disk, out of the report.
    assert invoke("evaluate", run, "--set", "evaluate.adapters=[]").exit_code == 0
    assert invoke("report", run).exit_code == 0
    assert "Adapter run-2" not in (run / "report.html").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and evaluated run with nothing optional."""
    folder = tmp_path_factory.mktemp("trained")
    model = build_model("llama", folder / "model")
    recipe = _recipe(folder, model, evaluate={"latency_rounds": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VERITUNE_CACHE", str(folder / "cache"))
        assert invoke("run", recipe).exit_code == 0
    return folder / "run"


def test_what_was_not_run_is_not_measured_and_says_why(trained: Path) -> None:
    claims = _claims(trained)
    assert len(claims) == 7
    for name in ("less memory to train", "faster to train", "more tokens a second"):
        assert claims[name]["verdict"].startswith("not measured: full fine-tuning was not run")
        assert claims[name]["ours"] > 0 and claims[name]["against"] is None
    assert claims["quality kept"]["verdict"].startswith("not measured")
    assert "latency_rounds is 0" in claims["no extra latency once merged"]["verdict"]
    assert "latency_rounds is 0" in (trained / "report.md").read_text()


def test_adapters_that_cannot_be_compared_are_refused(trained: Path, tmp_path: Path) -> None:
    kept = (trained / "recipe.yaml").read_bytes()

    def refused(adapter: Path) -> str:
        outcome = invoke("evaluate", trained, "--adapter", adapter, "--json")
        assert outcome.exit_code == 2, outcome.stdout + outcome.stderr
        assert (trained / "recipe.yaml").read_bytes() == kept, "later verbs would stop there, too"
        error = json.loads(outcome.stdout)
        assert error["error"] == "ModelReferenceError" and error["next_step"]
        return f"{error['fault']} {error['received']}"

    def variant(name: str, **settings: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(trained / "adapter", folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
        return folder

    assert "no such adapter folder" in refused(tmp_path / "nowhere")
    pickled = variant("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    assert "pickle" in refused(pickled)
    assert "trained the base's biases" in refused(variant("biased", bias="all"))
    assert "moved the base's weights" in refused(variant("pissa", init_lora_weights="pissa"))
    weights = "adapter_model.safetensors"

    whole = variant("whole")
    tensors = load_file(whole / weights)
    extra = {"base_model.model.lm_head.weight": torch.zeros(420, 32)}
    save_file({**tensors, **extra}, whole / weights)
    assert "carries whole layers" in refused(whole)

    wider = variant("wider")
    save_file(
        {n: torch.cat([t, t], t.ndim - 1).contiguous() for n, t in tensors.items()}, wider / weights
    )
    assert "does not fit this base model" in refused(wider)

    shallower = variant("shallower")
    save_file({n: t for n, t in tensors.items() if "layers.1." not in n}, shallower / weights)
    assert "does not fit this base model" in refused(shallower)

    another = build_model("llama", tmp_path / "another", seed=9)
    foreign = variant("foreign", base_model_name_or_path=str(another))
    assert "belongs to another base model" in refused(foreign)
    (variant("damaged") / weights).write_bytes(b"rubbish")
    assert "cannot be read" in refused(tmp_path / "damaged")


def test_adapter_paths_are_relative_to_the_recipe_and_settings_stay_strict(
    trained: Path, tmp_path: Path
) -> None:
    recipe = _recipe(tmp_path, trained.parent / "model", evaluate={"adapters": ["theirs"]})
    outcome = invoke("run", recipe)
    assert outcome.exit_code == 2 and str(tmp_path / "theirs") in outcome.stderr
    assert not (tmp_path / "run/data").exists(), "said before anything is spent"
    unknown = invoke("plan", recipe, "--set", "evaluate.systems=[baseline,adapted,adapter:x]")
    assert unknown.exit_code == 2 and "evaluate.systems" in unknown.stderr


_KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads({threads})
from veritune.train.loop import Training
from test_main_job import invoke
step = Training._step
def slow(self, *arguments):
    time.sleep(0.3)
    return step(self, *arguments)
Training._step = slow
invoke("evaluate", {run!r})
"""


@pytest.mark.slow
def test_full_fine_tuning_survives_sigkill(tiny_t5_folder: Path, tmp_path: Path) -> None:
    settings = {"train__checkpoint_steps": 1, "train__epochs": 4}
    weights = []
    for name in ("whole", "killed"):
        recipe = _recipe(tmp_path / name, tiny_t5_folder, "full_finetune", **settings)
        assert invoke("train", recipe).exit_code == 0
        run = tmp_path / name / "run"
        if name == "killed":
            tests = str(Path(__file__).resolve().parents[1])
            script = _KILLED.format(tests=tests, threads=torch.get_num_threads(), run=str(run))
            process = subprocess.Popen([sys.executable, "-c", script])
            checkpoint = run / "checkpoints/full_finetune/step-00000003"
            deadline = time.monotonic() + 120
            while not checkpoint.is_dir() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()
            process.wait()
            assert not (run / "full_finetune").exists()
        outcome = invoke("evaluate", run)
        assert outcome.exit_code == 0, outcome.stderr
        assert ("resuming training after step" in outcome.stderr) == (name == "killed")
        weights.append(load_file(run / WEIGHTS))
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
