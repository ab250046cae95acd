"""Every mistake gets a clear message and its exit code; never a traceback, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from test_main_job import invoke, write_recipe
from veritune.train.log import read_log

VERITUNE = Path(sys.executable).with_name("veritune")


def _fault(outcome: Any, code: int, *words: str) -> str:
    text = outcome.stderr
    assert outcome.exit_code == code, (outcome.exit_code, text, outcome.exception)
    assert "Traceback" not in text and "error:" in text
    for word in words:
        assert word in text, text
    return text


def _data(tmp_path: Path, model: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    recipe = write_recipe(tmp_path, model)
    path = tmp_path / name
    path.write_bytes(content)
    recipe.write_text(recipe.read_text().replace("rows.jsonl", name))
    return recipe


GOOD = b'{"instruction": "a", "output": "b = 1"}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["no rows"]),
        (GOOD + b"{broken\n", ["line 2"]),
        (b'{"question": "a", "output": "b"}\n', ["instruction", "question"]),
        (b'{"instruction": "caf\xe9", "output": "b"}\n', ["UTF-8"]),
        (b'{"instruction": "", "output": ""}\n', ["no row"]),
        (GOOD * 2, ["test"]),
    ],
    ids=["empty", "broken line", "wrong column", "not utf-8", "nothing left", "too few"],
)
@pytest.mark.parametrize("verb", ["plan", "prepare"])
def test_data_that_cannot_serve(
    content: bytes, words: list[str], verb: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    outcome = invoke(verb, _data(tmp_path, tiny_llama_folder, content))
    _fault(outcome, 2, "next:", *words)


def test_a_missing_file_and_a_missing_model(tiny_llama_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    missing = tmp_path / "row.jsonl"
    _fault(invoke("run", recipe, "--set", f"data.source={missing}"), 2, "row.jsonl")
    _fault(invoke("run", recipe, "--set", "model.name_or_path=./no/such/model"), 2, "no such model")
    _fault(invoke("run", recipe, "--set", "model.name_or_path=nobody/nothing"), 3, "nobody/nothing")
    _fault(invoke("run", tmp_path / "nope.yaml"), 2, "no such recipe")
    _fault(invoke("run", tmp_path), 2, "not a run directory")


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("model.prompt.template=Answer:", "template must contain"),
        ("lora.target_modules=[nothing]", "matches no linear module"),
        ("data.split.test=0", "test must be above 0"),
        ("data.split.test=1000", "45 rows"),
        ("train.padding=sideways", "train.padding"),
        ("lora.rank=4", "did you mean lora.r?"),
        ("evaluate.systems=[adapted]", "baseline and adapted"),
        ("report_to=[sparkline]", "unknown tracker"),
        ("evaluate.primary_metric=pass_at_1", "no test row carries tests"),
    ],
)
def test_settings_that_cannot_serve(
    setting: str, word: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    _fault(invoke("train", recipe, "--set", setting), 2, word)
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_tracker_whose_package_is_missing_is_said_and_not_passed_over(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", list)
    recipe = write_recipe(tmp_path, tiny_llama_folder, report_to=["wandb"])
    _fault(invoke("run", recipe), 3, "report_to: wandb", "pip install wandb")
    assert not (tmp_path / "run" / "data").exists(), "said before any work"
    assert "report_to: wandb" in invoke("plan", recipe).stdout
    _fault(invoke("train", recipe), 3, "report_to: wandb", "pip install wandb")


def test_what_only_training_needs_is_not_asked_of_a_trained_run(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", list)
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    assert invoke("train", recipe).exit_code == 0
    kept = tmp_path / "run" / "recipe.yaml"
    kept.write_text(kept.read_text().replace("report_to: []", "report_to: [wandb]"))
    elsewhere = invoke("run", tmp_path / "run")
    assert elsewhere.exit_code == 0, elsewhere.stderr


def test_packed_rows_for_an_encoder_decoder_nobody_can_pack() -> None:
    from veritune.config import Recipe, TrainSection
    from veritune.errors import RecipeError
    from veritune.pipeline.train import refuse_packed

    recipe = Recipe(train=TrainSection(padding="packed"))
    with pytest.raises(RecipeError, match="packed is for decoder models and T5"):
        refuse_packed(recipe, "seq2seq", "bart")
    refuse_packed(recipe, "seq2seq", "t5")
    refuse_packed(recipe, "causal", "llama")


def test_weights_that_do_not_fit(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veritune.model import load

    monkeypatch.setattr(load, "available_bytes", lambda device: 1000)
    _fault(invoke("train", write_recipe(tmp_path, tiny_llama_folder)), 3, "do not fit in memory")


def test_an_output_folder_that_is_taken(tiny_llama_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    assert invoke("train", recipe).exit_code == 0
    before = (tmp_path / "run/recipe.yaml").read_bytes()
    _fault(invoke("run", recipe, "--set", "lora.r=2"), 2, "another run", "lora.r")
    assert (tmp_path / "run/recipe.yaml").read_bytes() == before
    stranger = tmp_path / "photos"
    stranger.mkdir()
    (stranger / "cat.jpg").write_bytes(b"cat")
    _fault(invoke("run", recipe, "--set", f"output_dir={stranger}"), 2, "not a run")
    assert [item.name for item in stranger.iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize("verb", ["prepare", "run", "report"])
def test_a_name_that_no_file_system_takes(
    verb: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    long = f"output_dir={tmp_path / ('a' * 300)}"
    _fault(invoke(verb, recipe, "--set", long), 2, "too long for this file system", "aaa")
    _fault(invoke(verb, "a" * 300), 2, "too long for this file system", "aaa")


def test_stages_out_of_order(tiny_llama_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    _fault(invoke("evaluate", recipe), 2, "veritune train")
    _fault(invoke("report", recipe), 2, "veritune run")


def test_a_fault_in_json_stays_on_stdout_as_one_object(tmp_path: Path) -> None:
    outcome = invoke("plan", tmp_path / "nope.yaml", "--json")
    fault = json.loads(outcome.stdout)
    assert fault["exit_code"] == outcome.exit_code == 2 and fault["next_step"]


def test_a_full_disk_loses_nothing(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    assert invoke("prepare", recipe).exit_code == 0
    kept = (tmp_path / "run/data/train.parquet").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        _fault(invoke("train", recipe), 3, "disk is full")
    assert (tmp_path / "run/data/train.parquet").read_bytes() == kept
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert invoke("train", recipe).exit_code == 0, "with room again it goes on"


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(
        tmp_path, tiny_llama_folder, train={"epochs": 150, "batch_size": 4, "log_steps": 1}
    )
    log = tmp_path / "run/train_log.jsonl"
    environment = {**os.environ, "VERITUNE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [VERITUNE, "train", recipe], stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while len(read_log(log)) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 3, text
    assert "checkpoint is saved" in text and "Traceback" not in text
    assert not (tmp_path / "run/adapter").exists()
    again = subprocess.run(
        [VERITUNE, "train", recipe, "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert "resuming training after step" in again.stderr
    assert json.loads(again.stdout)["global_step"] == 300


def test_help_and_version_are_quick_and_complete() -> None:
    page = subprocess.run([VERITUNE, "--help"], capture_output=True, text=True, check=True).stdout
    for verb in ("demo", "run", "plan", "prepare", "train", "evaluate", "report", "schema",
                 "doctor"):  # fmt: skip
        assert f" {verb} " in page
        assert "Example: veritune" in invoke(verb, "--help").stdout
    schema = json.loads(invoke("schema").stdout)
    assert "LoraSection" in schema["$defs"]


def test_the_way_out_of_a_failed_first_step_is_open(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veritune.train import step

    def hungry(*arguments: Any) -> None:
        raise MemoryError("too much")

    recipe = write_recipe(tmp_path, tiny_llama_folder)
    with monkeypatch.context() as patched:
        patched.setattr(step, "token_losses", hungry)
        text = _fault(invoke("train", recipe), 3, "memory ran out while training")
    assert "train.batch_size=2" in text
    advised = ["--set", "train.batch_size=2", "--set", "train.accumulation_steps=2"]
    assert invoke("train", recipe, *advised).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--nonsense", "--json"), "--nonsense"),
        (("plan", "--json"), "RECIPE|RUN"),
        (("nonsense", "--json"), "nonsense"),
        (("compare", "one", "--json"), "RUN_B"),
    ],
)
def test_a_wrong_command_line_is_json_where_json_was_asked_for(
    arguments: tuple[str, ...], said: str
) -> None:
    outcome = invoke(*arguments)
    assert outcome.exit_code == 2
    error = json.loads(outcome.stdout)
    assert said in error["fault"] and error["exit_code"] == 2
    assert said in outcome.stderr
    assert invoke(*(a for a in arguments if a != "--json")).stdout == ""


def test_the_version_is_printed() -> None:
    outcome = invoke("--version")
    assert outcome.exit_code == 0 and outcome.stdout.startswith("veritune ")
