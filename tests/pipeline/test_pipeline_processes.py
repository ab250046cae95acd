"""Two processes with half a batch each are one process with the whole of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from test_main_job import invoke, write_recipe
from veritune.model.adapter import WEIGHTS
from veritune.pipeline.context import open_context
from veritune.pipeline.full_finetune import STAGE, full_finetune_stage
from veritune.pipeline.prepare import prepare_stage
from veritune.progress import Silent
from veritune.recipe_file import load_recipe


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_t5_folder"])
def test_two_processes_end_where_one_ends(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(request.getfixturevalue(fixture), folder)
    config = json.loads((folder / "config.json").read_text())
    # Masks are drawn by each process for itself.
    config.update({"dropout_rate": 0.0} if "dropout_rate" in config else {})
    (folder / "config.json").write_text(json.dumps(config))
    found = []
    for processes in (1, 2):
        place = tmp_path / str(processes)
        place.mkdir()
        # An odd batch: the shares differ, and the last one is a single example.
        recipe = write_recipe(
            place, folder, train__processes=processes, train__batch_size=5, lora__dropout=0.0,
            train__max_steps=5,
        )  # fmt: skip
        outcome = invoke("train", recipe, "--json", "--set", "model.dtype=float32")
        assert outcome.exit_code == 0, outcome.stderr
        found.append((json.loads(outcome.stdout), load_file(place / "run/adapter" / WEIGHTS)))
    (one, alone), (two, shared) = found
    for name in ("global_step", "supervised_tokens", "real_tokens", "kept_step"):
        assert one[name] == two[name]
    assert two["training_loss"] == pytest.approx(one["training_loss"], rel=1e-5)
    assert two["best_validation_loss"] == pytest.approx(one["best_validation_loss"], rel=1e-5)
    for name, tensor in alone.items():
        assert torch.allclose(shared[name], tensor, rtol=1e-3, atol=1e-5), name
    log = (tmp_path / "2/run/train_log.jsonl").read_text().splitlines()
    assert len(log) == len((tmp_path / "1/run/train_log.jsonl").read_text().splitlines())


class _Heard(Silent):
    """Keeps the news."""

    def __init__(self) -> None:
        self.news: list[str] = []

    def say(self, text: str) -> None:
        self.news.append(text)


@pytest.mark.slow
def test_full_fine_tuning_in_two_processes_or_computing_again_ends_where_it_ends_plainly(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    found = {}
    for name, settings, words in (
        ("plain", {}, "fp32 weights on cpu"),
        ("shared", {"train__processes": 2}, "fp32 weights on cpu, 2 processes"),
        ("again", {"train__activation_checkpointing": "on"}, "computed again instead of kept"),
    ):
        place, heard = tmp_path / name, _Heard()
        place.mkdir()
        recipe = write_recipe(
            place, tiny_llama_folder, train__batch_size=5, train__max_steps=4, **settings,
            evaluate={"systems": ["baseline", "adapted", "full_finetune"]},
        )  # fmt: skip
        context = open_context(load_recipe(recipe), heard)
        prepare_stage(context)
        full_finetune_stage(context)
        assert any(text.strip().endswith(words) or words in text for text in heard.news)
        found[name] = (
            context.run.stage_record(STAGE)["summary"],
            load_file(context.run.full_finetune / "model.safetensors"),
        )
    plain, weights = found["plain"]
    for name in ("shared", "again"):
        summary, others = found[name]
        assert summary["global_step"] == plain["global_step"] == 4
        assert summary["supervised_tokens"] == plain["supervised_tokens"]
        for value in ("training_loss", "best_validation_loss"):
            assert summary[value] == pytest.approx(plain[value], rel=1e-5)
        # AdamW moves a weight whose gradient is all rounding by as much as any other.
        for key, tensor in weights.items():
            assert torch.allclose(others[key], tensor, atol=1e-5) or (
                (others[key] - tensor).abs().mean() < 1e-6
            ), (name, key)


def test_more_processes_than_a_batch_has_examples_are_refused(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder, train__processes=64)
    outcome = invoke("train", recipe)
    assert outcome.exit_code == 3
    assert "train.processes" in outcome.stderr and "Traceback" not in outcome.stderr
