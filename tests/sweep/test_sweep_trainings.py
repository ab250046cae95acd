"""Configurations of a sweep learn what each learns alone, however they share the work."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distinct_rows import N_TRAIN, own_cache  # noqa: F401
from sweep_recipes import write_sweep_recipe
from test_main_job import invoke
from veritune.config import LoraSection, TrainSection
from veritune.model.adapter import load_adapter
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import choose_placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.pipeline.context import open_context
from veritune.pipeline.prepare import prepare_stage
from veritune.progress import Silent
from veritune.recipe_file import load_recipe
from veritune.sweep import together
from veritune.sweep.bench import Bench, open_bench
from veritune.sweep.results import Progress
from veritune.sweep.space import configuration
from veritune.sweep.sweep import search_space
from veritune.train.batches import Layout
from veritune.train.flops import count_weights
from veritune.train.joint import JointTrainers
from veritune.train.loop import Training
from veritune.train.loss import mean_loss
from veritune.train.one_by_one import OneByOneTrainers

PER_EPOCH = math.ceil(N_TRAIN / 4)


@pytest.fixture(autouse=True)
def _cache(own_cache: None) -> None:  # noqa: F811
    """A ledger of this test's own."""


def swept(path: Path) -> tuple[Bench, Progress]:
    context = open_context(load_recipe(path), Silent())
    prepare_stage(context)
    bench = open_bench(context)
    return bench, search_space(context, bench)


def alone(bench: Bench, number: int, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The reference: the ordinary loop on one adapter."""
    own = configuration(bench.recipe, number, settings)
    model = attach_lora(
        load_model(bench.recipe.model, choose_placement(bench.recipe.model)).model,
        own.lora,
        seed=own.seed,
    )
    layout = Layout(bench.layout.kind, bench.layout.pad_id, bench.layout.decoder_start_id, "packed")
    use_packed_attention(model, max(pair.n_tokens for pair in [*bench.train, *bench.validation]))
    return Training(
        model=model,
        layout=layout,
        section=own.train,
        train=bench.train,
        validation=bench.validation,
        seed=own.seed,
        device=torch.device("cpu"),
        folder=folder / "checkpoints",
        log_path=folder / "log.jsonl",
        inputs_sha256="",
        weights=count_weights(model),
        reporter=Silent(),
    ).run()


@pytest.mark.parametrize(
    "fixture", ["tiny_llama_folder", pytest.param("tiny_t5_folder", marks=pytest.mark.slow)]
)
def test_every_configuration_ends_where_it_ends_alone(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two slots for five, of two batch sizes: slots are refilled, rounds differ."""
    path = write_sweep_recipe(
        tmp_path,
        request.getfixturevalue(fixture),
        sweep={
            "lora.r": [2, 5],
            "train.learning_rate": [1e-3, 2e-2],
            "train.batch_size": [4, 6],
        },
        search={"slots": 2, "n": 5},
    )
    bench, progress = swept(path)
    assert len({row.settings["train.batch_size"] for row in progress.results}) == 2
    for row in progress.results:
        assert row.status == "finished" and row.step == row.n_steps
        wanted = alone(bench, row.number, row.settings, tmp_path / f"alone{row.number}")
        assert row.loss("best") == pytest.approx(wanted["best_validation_loss"], rel=1e-5)
        assert row.kept("best")["step"] == wanted["best_step"]
        assert row.counts["training_loss"] == pytest.approx(wanted["training_loss"], rel=1e-5)


@pytest.mark.slow
def test_early_stop_and_the_last_adapter_are_as_the_recipe_says(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """So long that twelve rows are learned by heart."""
    path = write_sweep_recipe(
        tmp_path,
        tiny_llama_folder,
        sweep={"train.early_stopping_patience": [1, 3, None]},
        search={"slots": 4},
        train__learning_rate=0.01,
        train__epochs=30,
        train__eval_steps=7,
        train__keep="last",
    )
    bench, progress = swept(path)
    assert any(row.step < row.n_steps for row in progress.results)
    for row in progress.results:
        wanted = alone(bench, row.number, row.settings, tmp_path / f"alone{row.number}")
        assert row.step == wanted["global_step"]
        assert (row.reason != "") == wanted["stopped_early"]
        assert row.kept("last")["step"] == wanted["kept_step"]
        assert row.kept("best")["validation_loss"] == pytest.approx(
            wanted["best_validation_loss"], rel=1e-4
        )


@pytest.mark.slow
def test_where_memory_runs_out_fewer_train_together(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sweep_recipe(tmp_path, tiny_llama_folder, search={"slots": 5})
    through = JointTrainers.advance
    tried: list[int] = []

    def advance(self: JointTrainers, steps: int) -> None:
        tried.append(len(self._slots))
        if len(self._slots) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        through(self, steps)

    monkeypatch.setattr(JointTrainers, "advance", advance)
    outcome = invoke("sweep", path, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert "memory ran out; going on with 2 at a time" in outcome.stderr
    assert tried[0] == 5 and max(tried[1:]) == 2
    rows = json.loads(outcome.stdout)["configurations"]
    assert [row["status"] for row in rows] == ["finished"] * 6
    monkeypatch.setattr(
        JointTrainers, "advance", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    refused = invoke("sweep", path, "--set", f"output_dir={tmp_path / 'other'}")
    assert refused.exit_code == 3 and "memory ran out with one" in refused.stderr


def test_stopped_within_a_round_it_goes_on_within_it(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slots for three; stopped at the second step of the second round, in full precision.

    Memory has room for more when it goes on, yet the same two share a row as before.
    """
    sweep = {"train.learning_rate": [1e-3, 1e-2, 2e-2]}
    room = [2]
    monkeypatch.setattr(Bench, "room", lambda *_, **__: room[0])
    whole = write_sweep_recipe(tmp_path / _made(tmp_path, "whole"), tiny_llama_folder, sweep=sweep)
    _, wanted = swept(whole)
    monkeypatch.setattr(together, "_SAVE_EVERY_SECONDS", -1)
    monkeypatch.setattr(together, "_LOOK_EVERY_SECONDS", 0)
    through, calls = JointTrainers.advance, [0]

    def advance(self: JointTrainers, steps: int) -> None:
        calls[0] += 1
        if calls[0] == PER_EPOCH + 2:
            raise KeyboardInterrupt
        through(self, steps)

    monkeypatch.setattr(JointTrainers, "advance", advance)
    path = write_sweep_recipe(tmp_path / _made(tmp_path, "stopped"), tiny_llama_folder, sweep=sweep)
    with pytest.raises(KeyboardInterrupt):
        swept(path)
    room[0] = 3
    calls[0] = PER_EPOCH + 2
    _, progress = swept(path)
    made = calls[0] - (PER_EPOCH + 2)
    assert made == 2 * 2 * PER_EPOCH - (PER_EPOCH + 1), "no step was made twice"
    for row, other in zip(progress.results, wanted.results, strict=True):
        assert row.status == other.status == "finished"
        assert row.evaluations == other.evaluations and row.counts == other.counts


def test_when_not_one_fits_it_says_how_much_is_missing(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veritune.sweep.bench.available_bytes", lambda _: 2**20)
    outcome = invoke("sweep", write_sweep_recipe(tmp_path, tiny_llama_folder))
    assert outcome.exit_code == 3
    assert "not one configuration of the sweep fits in memory" in outcome.stderr
    assert "MiB available on cpu" in outcome.stderr and "train.batch_size=2" in outcome.stderr


def test_as_many_train_together_as_memory_holds(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sweep_recipe(tmp_path, tiny_llama_folder)
    context = open_context(load_recipe(path), Silent())
    prepare_stage(context)
    bench = open_bench(context)
    own = configuration(bench.recipe, 0, {})
    fits = []
    for factor in (1, 2, 3):
        monkeypatch.setattr(
            "veritune.sweep.bench.available_bytes", lambda _, factor=factor: factor * 4 * 2**20
        )
        fits.append(bench.room([own]))
    assert 1 <= fits[0] < fits[1] < fits[2]


def test_halving_keeps_exactly_the_best_third_at_each_rung(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    sweep = {"lora.r": [1, 2, 4], "train.learning_rate": [1e-4, 1e-3, 1e-2]}
    full = write_sweep_recipe(tmp_path / _made(tmp_path, "full"), tiny_llama_folder, sweep=sweep,
                              train__epochs=4)  # fmt: skip
    _, everything = swept(full)
    losses = {
        row.number: [entry["validation_loss"] for entry in row.evaluations]
        for row in everything.results
    }
    halved = write_sweep_recipe(
        tmp_path / _made(tmp_path, "halved"),
        tiny_llama_folder,
        sweep=sweep,
        search={"halving": {"eta": 3, "min_epochs": 1}, "slots": 2},
        train__epochs=4,
    )
    _, progress = swept(halved)
    left = sorted(losses, key=lambda number: (min(losses[number][:1]), number))[:3]
    last = sorted(left, key=lambda number: (min(losses[number][:3]), number))[:1]
    for row in progress.results:
        rounds = 4 if row.number in last else 3 if row.number in left else 1
        assert row.step == rounds * PER_EPOCH
        assert row.status == ("finished" if row.number in last else "stopped")
        found = [entry["validation_loss"] for entry in row.evaluations]
        assert found == pytest.approx(losses[row.number][:rounds], rel=1e-5)
    assert [rung["epochs"] for rung in progress.judged["0"]] == [1, 3]


def test_one_that_diverges_loses_with_a_reason_and_the_others_learn(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    path = write_sweep_recipe(
        tmp_path, tiny_llama_folder, sweep={"train.learning_rate": [1e300, 1e-2]},
        search={"halving": {"eta": 2, "min_epochs": 1}},
    )  # fmt: skip
    _, progress = swept(path)
    wild, good = progress.results
    assert wild.status == "diverged" and "not finite" in wild.reason
    assert good.status == "finished"
    outcome = invoke("sweep", path, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["winner"]["settings"] == {"train.learning_rate": 1e-2}
    assert result["configurations"][-1]["validation_loss"] is None


def test_when_all_diverge_it_says_so(tiny_llama_folder: Path, tmp_path: Path) -> None:
    path = write_sweep_recipe(
        tmp_path, tiny_llama_folder, sweep={"train.learning_rate": [1e300, 1e299]}
    )
    outcome = invoke("sweep", path)
    assert outcome.exit_code == 3
    assert "every configuration of the sweep diverged" in outcome.stderr


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True, "dropout": 0.2},
        pytest.param({"init": "pissa"}, marks=pytest.mark.slow),
        pytest.param({"bias": "all"}, marks=pytest.mark.slow),
        {"dropout": 0.2},
    ],
)
def test_one_by_one_is_the_ordinary_loop_and_can_be_put_back(
    lora: dict[str, Any], tiny_llama_folder: Path, tmp_path: Path
) -> None:
    path = write_sweep_recipe(tmp_path, tiny_llama_folder, sweep={"lora.r": [3]})
    context = open_context(load_recipe(path), Silent())
    prepare_stage(context)
    bench = open_bench(context)
    own = configuration(bench.recipe, 0, {})
    section = LoraSection(r=3, **{"dropout": 0.0, **lora})
    train = TrainSection(batch_size=4, epochs=3, learning_rate=1e-2, accumulation_steps=2)
    own = type(own)(0, section, train, 7)
    model = attach_lora(bench.load().model, section, seed=7)
    wanted = Training(
        model=model,
        layout=bench.layout,
        section=train,
        train=bench.train,
        validation=bench.validation,
        seed=7,
        device=torch.device("cpu"),
        folder=tmp_path / "checkpoints",
        log_path=tmp_path / "log.jsonl",
        inputs_sha256="",
        weights=count_weights(model),
        reporter=Silent(),
    ).run()

    trainers = OneByOneTrainers(
        lambda: bench.load().model,
        bench.layout,
        bench.train,
        bench.validation,
        device=torch.device("cpu"),
    )
    trainers.start(0, own)
    losses = []
    for _ in range(3):
        trainers.advance(1)
        state = trainers.state(0)
        trainers.stop(0)
        torch.rand(5)
        trainers.restore(0, own, state)
        trainers.advance(1)
        losses.append(trainers.validation_loss()[0])
    assert trainers.done(0)
    assert min(losses) == pytest.approx(wanted["best_validation_loss"], rel=1e-6)
    assert trainers.counts(0)["training_loss"] == pytest.approx(wanted["training_loss"], rel=1e-6)
    trainers.save(0, tmp_path / "adapter", "the/base")
    assert trainers.validation_loss()[0] == pytest.approx(losses[-1], rel=1e-6)
    trainers.close()
    plain = load_adapter(bench.load().model, tmp_path / "adapter")
    batch = bench.layout.batch(bench.validation)
    assert mean_loss(plain, [batch], torch.device("cpu")) == pytest.approx(losses[-1], rel=1e-5)


def _made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name
