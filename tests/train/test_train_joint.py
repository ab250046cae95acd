"""Configurations that train in one row learn what each learns alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny_models import build_model
from veritune.config import LoraSection, ModelSection, TrainSection
from veritune.model.adapter import WEIGHTS, load_adapter
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.progress import Silent
from veritune.train.batches import EncodedPair, make_layout
from veritune.train.flops import count_weights
from veritune.train.joint import JointTrainers, can_train_jointly
from veritune.train.loop import Training
from veritune.train.trainers import Configuration, Trainers

SETTINGS = [
    (LoraSection(r=2, alpha=4, dropout=0.1), {"learning_rate": 1e-2}, 1),
    (
        LoraSection(r=5, alpha=32, dropout=0.0, target_modules="all-linear"),
        {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 3, "weight_decay": 0.1},
        2,
    ),
    (
        LoraSection(r=3, alpha=8, dropout=0.3, target_modules="mlp", use_rslora=True),
        {"learning_rate": 1e-2, "max_grad_norm": 0.05, "batch_size": 3, "accumulation_steps": 2},
        3,
    ),
]


def _pairs(n: int, seed: int) -> list[EncodedPair]:
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 300) for _ in range(draw.randrange(low, high)))

    return [EncodedPair(str(i), tokens(2, 9), tokens(2, 20)) for i in range(n)]


TRAIN, VALIDATION = _pairs(14, 0), _pairs(5, 1)


def _configurations() -> list[Configuration]:
    return [
        Configuration(
            number,
            lora,
            TrainSection(**{"batch_size": 4, "max_steps": 20, "epochs": 50, "keep": "last", **own}),
            seed,
        )
        for number, (lora, own, seed) in enumerate(SETTINGS)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    folders: dict[str, Path] = {}

    def load(architecture: str) -> Any:
        if architecture not in folders:
            folder = tmp_path_factory.mktemp("models") / architecture
            folders[architecture] = build_model(architecture, folder)  # type: ignore[arg-type]
        section = ModelSection(name_or_path=str(folders[architecture]), dtype="float32")
        place = Placement(torch.device("cpu"), torch.float32)
        return load_model(section, place).model.double()

    return load


def _joint(model: Any, architecture: str, slots: int = 3) -> JointTrainers:
    kind = "seq2seq" if architecture == "t5" else "causal"
    layout = make_layout(kind, "packed", TRAIN, pad_id=0, decoder_start_id=0)
    cpu = torch.device("cpu")
    return JointTrainers(model, layout, TRAIN, VALIDATION, slots=slots, device=cpu)


def _alone(
    model: Any, architecture: str, configuration: Configuration, folder: Path
) -> dict[str, torch.Tensor]:
    """The reference: the ordinary loop on one adapter."""
    from veritune.model.attention import use_packed_attention

    adapted = attach_lora(model, configuration.lora, seed=configuration.seed).double()
    use_packed_attention(adapted, 40)
    kind = "seq2seq" if architecture == "t5" else "causal"
    Training(
        model=adapted,
        layout=make_layout(kind, "packed", TRAIN, pad_id=0, decoder_start_id=0),
        section=configuration.train,
        train=TRAIN,
        validation=VALIDATION,
        seed=configuration.seed,
        device=torch.device("cpu"),
        folder=folder / "checkpoints",
        log_path=folder / "log.jsonl",
        inputs_sha256="",
        weights=count_weights(adapted),
        reporter=Silent(),
    ).run()
    return {
        name.replace(".default", ""): p.detach()
        for name, p in adapted.named_parameters()
        if p.requires_grad
    }


def _doubled(trainers: JointTrainers) -> None:
    for slot in trainers._slots.values():
        for parameter in slot.parameters.values():
            parameter.data = parameter.data.double()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "t5"])
def test_three_in_one_row_learn_what_each_learns_alone(
    base: Callable[[str], Any], architecture: str, tmp_path: Path
) -> None:
    trainers = _joint(base(architecture), architecture)
    configurations = _configurations()
    for slot, configuration in enumerate(configurations):
        trainers.start(slot, configuration)
    _doubled(trainers)
    trainers.advance(7)
    trainers.validation_loss()
    trainers.advance(100)
    assert all(trainers.done(slot) for slot in range(3))
    for slot, configuration in enumerate(configurations):
        wanted = _alone(base(architecture), architecture, configuration, tmp_path / str(slot))
        got = trainers._slots[slot].parameters
        assert set(got) == set(wanted)
        for name, tensor in wanted.items():
            error = (got[name].detach() - tensor).norm() / tensor.norm()
            assert error < 1e-10, (slot, name, float(error))


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_stopped_and_restored_a_slot_goes_on_as_if_nothing_had_happened(
    base: Callable[[str], Any], architecture: str
) -> None:
    first, second, third = _configurations()
    through = _joint(base(architecture), architecture)
    through.start(0, first)
    through.start(1, second)
    through.advance(12)
    broken = _joint(base(architecture), architecture)
    broken.start(1, third)
    broken.start(0, first)
    broken.advance(5)
    kept = broken.state(0)
    broken.stop(0)
    broken.stop(1)
    again = _joint(base(architecture), architecture, slots=1)
    again.restore(0, first, kept)
    again.advance(7)
    for name, tensor in through._slots[0].parameters.items():
        assert torch.allclose(tensor, again._slots[0].parameters[name], rtol=1e-4, atol=1e-7)
    assert again.validation_loss()[0] == pytest.approx(through.validation_loss()[0], rel=1e-5)


def test_a_slot_that_diverges_stops_alone(base: Callable[[str], Any]) -> None:
    trainers = _joint(base("llama"), "llama")
    good, *_ = _configurations()
    wild = Configuration(9, good.lora, good.train.model_copy(update={"learning_rate": 1e300}), 1)
    trainers.start(0, good)
    trainers.start(1, wild)
    trainers.advance(20)
    losses = trainers.validation_loss()
    assert math.isinf(losses[1])
    assert math.isfinite(losses[0])
    assert trainers.counts(0)["global_step"] == 20
    assert trainers.counts(1)["global_step"] < 20


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_a_saved_slot_is_an_ordinary_adapter(
    base: Callable[[str], Any], architecture: str, tmp_path: Path
) -> None:
    model = base(architecture).float()
    trainers = _joint(model, architecture)
    configurations = _configurations()
    for slot in (0, 1):
        trainers.start(slot, configurations[slot])
    trainers.advance(10)
    losses = trainers.validation_loss()
    trainers.save(1, tmp_path / "adapter", "the/base")
    assert not [item for item in (tmp_path / "adapter").iterdir() if item.is_dir()]
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    assert any(float(t.abs().sum()) for n, t in tensors.items() if "lora_B" in n)
    from veritune.train.loss import mean_loss

    plain = load_adapter(base(architecture).float(), tmp_path / "adapter")
    kind = "seq2seq" if architecture == "t5" else "causal"
    layout = make_layout(kind, "longest_in_batch", VALIDATION, pad_id=0, decoder_start_id=0)
    batch = layout.batch(VALIDATION)
    assert mean_loss(plain, [batch], torch.device("cpu")) == pytest.approx(losses[1], rel=1e-5)


def test_what_cannot_share_a_row_is_known_beforehand(base: Callable[[str], Any]) -> None:
    model = base("llama")
    assert can_train_jointly(model, [LoraSection()], 40)
    for refused in (
        LoraSection(use_dora=True),
        LoraSection(bias="all"),
        LoraSection(init="pissa"),
    ):
        assert not can_train_jointly(model, [LoraSection(), refused], 40)
    model.config.sliding_window = 16
    assert not can_train_jointly(model, [LoraSection()], 40)


def test_it_is_what_a_sweep_expects(base: Callable[[str], Any]) -> None:
    trainers: Trainers = _joint(base("llama"), "llama")
    assert trainers.slots == 3
