"""The loop: equal to plain PyTorch, resumable to the bit, honest about trouble."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from veritune.config import LoraSection, ModelSection, TrainSection
from veritune.errors import EnvironmentFault, Interrupted, OutOfMemory, RunDirectoryError
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.progress import Silent
from veritune.train import step as step_module
from veritune.train.batches import EncodedPair, epoch_batches, make_layout
from veritune.train.checkpoint import checkpoints, trainable_tensors
from veritune.train.flops import count_weights
from veritune.train.log import read_log
from veritune.train.loop import Training
from veritune.train.loss import mean_loss
from veritune.train.schedule import rate_factor, step_count

CPU = Placement(torch.device("cpu"), torch.float32)
END = 3
PAIRS = [
    EncodedPair(str(i), tuple(range(5, 8 + i % 4)), (*range(20 + i % 7, 25 + i % 9), END))
    for i in range(20)
]


def _model(folder: Path, dropout: float = 0.0) -> Any:
    base = load_model(ModelSection(name_or_path=str(folder)), CPU).model
    for module in base.modules():
        # T5 has dropout of its own, which no two loops draw alike.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return attach_lora(base, LoraSection(r=4, dropout=dropout), seed=0)


def _training(model: Any, folder: Path, **changes: Any) -> Training:
    settings = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 2, "log_steps": 1}
    inputs = changes.pop("inputs_sha256", "same")
    validation = changes.pop("validation", PAIRS[16:])
    section = TrainSection.model_validate({**settings, **changes})
    kind = "seq2seq" if model.config.is_encoder_decoder else "causal"
    return Training(
        model=model,
        layout=make_layout(kind, section.padding, PAIRS, pad_id=0, decoder_start_id=0),
        section=section,
        train=PAIRS[:16],
        validation=validation,
        seed=0,
        device=CPU.device,
        folder=folder / "checkpoints",
        log_path=folder / "log.jsonl",
        inputs_sha256=inputs,
        weights=count_weights(model),
        reporter=Silent(),
    )


def _flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainable_tensors(model).values()])


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_t5_folder"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_loop_takes_the_steps_plain_pytorch_takes(
    fixture: str, schedule: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import get_scheduler

    folder = request.getfixturevalue(fixture)
    ours = _model(folder)
    _training(
        ours, tmp_path, schedule=schedule, keep="last", weight_decay=0.01, max_grad_norm=0.5
    ).run()

    model = _model(folder).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    scheduler = get_scheduler(schedule, optimizer, num_warmup_steps=0, num_training_steps=8)
    kind = "seq2seq" if model.config.is_encoder_decoder else "causal"
    layout = make_layout(kind, "longest_in_batch", PAIRS, pad_id=0, decoder_start_id=0)
    for epoch in range(2):
        for pairs in epoch_batches(PAIRS[:16], 4, seed=0, epoch=epoch):
            batch = layout.batch(pairs)
            if kind == "causal":
                labels = torch.full_like(batch.labels, -100)
                labels[:, 1:] = batch.labels[:, :-1]
                loss = model(**batch.inputs, labels=labels).loss
            else:
                inputs = {k: v for k, v in batch.inputs.items() if k != "decoder_input_ids"}
                loss = model(**inputs, labels=batch.labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert torch.allclose(_flat(ours), _flat(model), rtol=1e-4, atol=1e-6)


def test_eight_by_one_equals_one_by_eight(tiny_llama_folder: Path, tmp_path: Path) -> None:
    results = []
    for index, (batch_size, accumulation) in enumerate([(8, 1), (1, 8), (2, 4)]):
        model = _model(tiny_llama_folder)
        _training(
            model,
            tmp_path / str(index),
            batch_size=batch_size,
            accumulation_steps=accumulation,
            keep="last",
        ).run()
        results.append(_flat(model))
    assert torch.allclose(results[0], results[1], rtol=1e-4, atol=1e-6)
    assert torch.allclose(results[0], results[2], rtol=1e-4, atol=1e-6)


def test_training_moves_only_the_adapter(tiny_llama_folder: Path, tmp_path: Path) -> None:
    model = _model(tiny_llama_folder)
    before = {n: p.clone() for n, p in model.named_parameters()}
    _training(model, tmp_path).run()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("lora_" in name for name in moved)


def test_the_summary_and_the_log_agree(tiny_llama_folder: Path, tmp_path: Path) -> None:
    model = _model(tiny_llama_folder)
    training = _training(model, tmp_path, eval_steps=3)
    summary = training.run()
    events = read_log(tmp_path / "log.jsonl")
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 9))
    evaluations = [event for event in events if event["event"] == "evaluation"]
    assert [event["step"] for event in evaluations] == [3, 6, 8]
    best = min(evaluations, key=lambda event: event["validation_loss"])
    assert summary["best_step"] == best["step"] == summary["kept_step"]
    assert summary["best_validation_loss"] == best["validation_loss"]
    assert summary["global_step"] == 8 and summary["epoch"] == 2.0
    assert summary["supervised_tokens"] == 2 * sum(len(p.target_ids) for p in PAIRS[:16])
    assert summary["real_tokens"] == 2 * sum(p.n_tokens for p in PAIRS[:16])
    for name in ("train_runtime", "train_samples_per_second", "train_steps_per_second"):
        assert summary[name] > 0


UNLIKE = [EncodedPair("u", (5, 6, 7), (90, 91, 92, 93, END))]


def test_the_best_adapter_is_the_one_kept(tiny_llama_folder: Path, tmp_path: Path) -> None:
    model = _model(tiny_llama_folder)
    training = _training(
        model, tmp_path, learning_rate=0.02, epochs=8, eval_steps=1, validation=UNLIKE
    )
    summary = training.run()
    assert summary["best_step"] < summary["global_step"], "memorising should have cost something"
    kept = mean_loss(model, [training.layout.batch(UNLIKE)], CPU.device)
    assert kept == pytest.approx(summary["best_validation_loss"], rel=1e-5)


def test_early_stopping_stops(tiny_llama_folder: Path, tmp_path: Path) -> None:
    training = _training(
        _model(tiny_llama_folder),
        tmp_path,
        learning_rate=0.02,
        epochs=50,
        validation=UNLIKE,
        early_stopping_patience=2,
    )
    summary = training.run()
    assert summary["stopped_early"] and summary["global_step"] < 200


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_t5_folder"])
def test_total_flos_is_what_the_common_trainers_print(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = _model(request.getfixturevalue(fixture))
    summary = _training(model, tmp_path, padding="longest_in_data", epochs=1).run()
    training = _training(model, tmp_path, padding="longest_in_data")
    batch = training.layout.batch(PAIRS[:16])
    ids = batch.inputs["input_ids"]
    parameters = model.get_base_model().num_parameters(exclude_embeddings=True)
    assert summary["total_flos"] == 6 * ids.numel() * parameters


def test_schedules_match_transformers() -> None:
    from transformers import get_scheduler

    for name in ("linear", "cosine", "constant"):
        section = TrainSection(schedule=name)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        theirs = get_scheduler(name, optimizer, num_warmup_steps=0, num_training_steps=20)
        for step in range(20):
            assert rate_factor(section, step, 20) == pytest.approx(theirs.get_last_lr()[0])
            optimizer.step()
            theirs.step()
    warm = TrainSection(warmup_steps=4)
    factors = [rate_factor(warm, step, 20) for step in range(6)]
    assert factors == sorted(factors[:5]) + factors[5:] and 0 < factors[0] < factors[4] == 1.0


def test_step_counts() -> None:
    assert step_count(TrainSection(batch_size=8, epochs=100), 40) == (500, 5)
    assert step_count(TrainSection(batch_size=8, epochs=1, accumulation_steps=2), 41) == (3, 3)
    assert step_count(TrainSection(batch_size=8, epochs=0.5), 40) == (3, 5)
    assert step_count(TrainSection(batch_size=8, epochs=9, max_steps=7), 40) == (7, 5)


def test_an_interrupt_saves_and_the_resumed_run_ends_bit_equal(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _model(tiny_llama_folder, dropout=0.2)
    summary = _training(whole, tmp_path / "whole").run()

    taken = 0
    original = Training._step

    def interrupting(self: Training, *arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(Training, "_step", interrupting)
    with pytest.raises(Interrupted, match="after step 3 of 8") as caught:
        _training(_model(tiny_llama_folder, dropout=0.2), tmp_path / "parts").run()
    assert caught.value.exit_code == 3
    resumed = _model(tiny_llama_folder, dropout=0.2)
    again = _training(resumed, tmp_path / "parts").run()
    assert torch.equal(_flat(resumed), _flat(whole))
    assert again["training_loss"] == summary["training_loss"]
    keys = ("event", "step", "loss", "validation_loss")
    logs = [
        [tuple(event.get(key) for key in keys) for event in read_log(tmp_path / name / "log.jsonl")]
        for name in ("whole", "parts")
    ]
    losses = [[entry for entry in log if entry[0] != "checkpoint"] for log in logs]
    assert losses[0] == losses[1]


_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
sys.path.insert(0, {here!r})
import time
import torch
torch.set_num_threads({threads})
import test_train_loop as t
original = t.Training._step
def slow(self, *arguments):
    time.sleep(0.15)
    return original(self, *arguments)
t.Training._step = slow
model = t._model(Path({model!r}), dropout=0.2)
t._training(model, Path({folder!r}), checkpoint_steps=1, eval_steps=3).run()
"""


@pytest.mark.slow
def test_a_killed_run_resumes_bit_equal(tiny_llama_folder: Path, tmp_path: Path) -> None:
    whole = _model(tiny_llama_folder, dropout=0.2)
    _training(whole, tmp_path / "whole", checkpoint_steps=1, eval_steps=3).run()

    here = Path(__file__).resolve().parent
    script = _SCRIPT.format(
        tests=str(here.parent),
        here=str(here),
        threads=torch.get_num_threads(),
        model=str(tiny_llama_folder),
        folder=str(tmp_path / "killed"),
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = checkpoints(tmp_path / "killed" / "checkpoints")
        if found and json.loads((found[-1] / "state.json").read_text())["step"] >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not [e for e in read_log(tmp_path / "killed" / "log.jsonl") if e["event"] == "end"]

    resumed = _model(tiny_llama_folder, dropout=0.2)
    _training(resumed, tmp_path / "killed", checkpoint_steps=1, eval_steps=3).run()
    assert torch.equal(_flat(resumed), _flat(whole))


def test_resuming_on_other_inputs_is_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    _training(_model(tiny_llama_folder), tmp_path, epochs=1).run()
    with pytest.raises(RunDirectoryError, match="other data or settings"):
        _training(_model(tiny_llama_folder), tmp_path, inputs_sha256="other").run()


def test_a_damaged_checkpoint_is_explained(tiny_llama_folder: Path, tmp_path: Path) -> None:
    _training(_model(tiny_llama_folder), tmp_path, epochs=1).run()
    [newest] = checkpoints(tmp_path / "checkpoints")
    (newest / "trainable.safetensors").write_bytes(b"rubbish")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        _training(_model(tiny_llama_folder), tmp_path).run()


def test_a_checkpoint_holds_no_pickle(tiny_llama_folder: Path, tmp_path: Path) -> None:
    _training(_model(tiny_llama_folder), tmp_path, epochs=1).run()
    suffixes = {p.suffix for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()}
    assert suffixes == {".safetensors", ".json"}
    [newest] = checkpoints(tmp_path / "checkpoints")
    assert all("lora_" in name for name in load_file(newest / "trainable.safetensors"))


def test_divergence_is_named_before_it_ruins_the_adapter(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, batch: Any, importance: Any) -> torch.Tensor:
        return (_grads(model)[0].sum() * float("nan")).expand(batch.n_supervised)

    monkeypatch.setattr(step_module, "token_losses", broken)
    with pytest.raises(EnvironmentFault, match="diverged at step 1"):
        _training(_model(tiny_llama_folder), tmp_path).run()


def test_out_of_memory_names_two_settings_that_need_less(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(model: Any, batch: Any, importance: Any) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(step_module, "token_losses", hungry)
    with pytest.raises(OutOfMemory, match="memory ran out while training") as caught:
        _training(_model(tiny_llama_folder), tmp_path).run()
    advice = str(caught.value.next_step)
    assert "train.batch_size=2" in advice and "train.accumulation_steps=2" in advice
    assert "data.max_pair_tokens" in advice


def _grads(model: Any) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.requires_grad]
