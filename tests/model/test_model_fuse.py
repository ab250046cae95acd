"""The fast layers against PEFT's own: same loss, same gradients, and nothing left behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from veritune.config import LoraSection, ModelSection
from veritune.model.adapter import adapter_state
from veritune.model.attention import use_packed_attention
from veritune.model.counted_dropout import Draw, dropped_positions, keep_mask
from veritune.model.cpu_layers import LinearCrossEntropy
from veritune.model.fuse import fuse
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.train.batches import EncodedPair, Kind, Padding, make_layout
from veritune.train.loss import loss_sum

ARCHITECTURES = ["llama", "qwen2", "t5"]


def _pairs(n: int = 6) -> list[EncodedPair]:
    random_ = random.Random(0)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(random_.randrange(5, 300) for _ in range(random_.randrange(low, high)))

    return [EncodedPair(str(i), tokens(2, 9), tokens(2, 20)) for i in range(n)]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    from tiny_models import build_model

    folders: dict[str, Path] = {}

    def make(architecture: str, t5_dropout: float = 0.0, **lora: Any) -> Any:
        key = f"{architecture}-{t5_dropout}"
        if key not in folders:
            folder = tmp_path_factory.mktemp("models") / key
            folders[key] = build_model(architecture, folder, t5_dropout=t5_dropout)  # type: ignore[arg-type]
        place = Placement(torch.device("cpu"), torch.float32)
        section = ModelSection(name_or_path=str(folders[key]), dtype="float32")
        settings = {"r": 3, "dropout": 0.0, "target_modules": "all-linear", **lora}
        model = attach_lora(load_model(section, place).model, LoraSection(**settings), seed=1)
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return model.train()

    return make


def _kind(architecture: str) -> Kind:
    return "seq2seq" if architecture == "t5" else "causal"


def _gradients(
    model: Any, architecture: str, padding: Padding, *, fast: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    pairs = _pairs()
    if padding == "packed":
        assert use_packed_attention(model, 40)
    layout = make_layout(_kind(architecture), padding, pairs, pad_id=0, decoder_start_id=0)
    fused = fuse(model) if fast else None
    loss = loss_sum(model, layout.batch(pairs))
    loss.backward()  # type: ignore[no-untyped-call]
    if fused is not None:
        fused.restore()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("padding", ["longest_in_batch", "packed"])
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_loss_and_every_gradient_equal_pefts(
    build: Callable[..., Any], architecture: str, padding: Padding, targets: str
) -> None:
    reference = _gradients(
        build(architecture, target_modules=targets), architecture, "longest_in_batch", fast=False
    )
    model = build(architecture, target_modules=targets)
    loss, gradients = _gradients(model, architecture, padding, fast=True)
    assert loss == pytest.approx(reference[0], rel=1e-6)
    assert set(gradients) == set(reference[1])
    for name, wanted in reference[1].items():
        error = (gradients[name] - wanted).norm() / wanted.norm()
        assert error < 1e-5, (name, float(error))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_restored_it_is_the_model_it_was(build: Callable[..., Any], architecture: str) -> None:
    model = build(architecture)
    before = {name: p.clone() for name, p in model.named_parameters()}
    pointers = {id(module): module.forward.__func__ for module in model.modules()}
    fused = fuse(model)
    assert fused.n_joined
    fused.restore()
    assert {name: id(p) for name, p in model.named_parameters()}.keys() == before.keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    for module in model.modules():
        assert module.forward.__func__ is pointers[id(module)]
    storages = [p.untyped_storage().data_ptr() for p in model.get_base_model().parameters()]
    assert len(set(storages)) == len(storages)


def test_what_only_peft_can_do_keeps_its_own_path(build: Callable[..., Any]) -> None:
    dora = build("llama", use_dora=True)
    reference = _gradients(build("llama", use_dora=True), "llama", "longest_in_batch", fast=False)
    fused = fuse(dora)
    assert fused.n_joined == 0
    fused.restore()
    gradients = _gradients(dora, "llama", "longest_in_batch", fast=True)
    for name, wanted in reference[1].items():
        assert torch.allclose(gradients[1][name], wanted, atol=1e-5), name


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_masks_are_fresh_every_step_and_named_by_it(
    build: Callable[..., Any], architecture: str
) -> None:
    model = build(architecture, t5_dropout=0.1, dropout=0.3)
    use_packed_attention(model, 40)
    layout = make_layout(_kind(architecture), "packed", _pairs(), pad_id=0, decoder_start_id=0)
    batch = layout.batch(_pairs())
    fused = fuse(model)

    def loss(step: int) -> float:
        fused.situation.counters[0] = step
        return float(loss_sum(model, batch).detach())

    assert loss(1) != loss(2)
    assert loss(1) == loss(1)
    model.eval()
    assert loss(1) == loss(2)
    fused.restore()


def test_mean_over_masks_is_the_output_without_dropout(build: Callable[..., Any]) -> None:
    model = build("llama", dropout=0.4, target_modules=["q_proj"])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    fused = fuse(model)
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    outs = []
    with torch.no_grad():
        for step in range(2000):
            fused.situation.counters[0] = step
            outs.append(layer(x))
            siblings = model.get_base_model().model.layers[0].self_attn
            siblings.k_proj(x), siblings.v_proj(x)
        model.eval()
        exact = layer(x)
    fused.restore()
    all_ = torch.stack(outs)
    error = (all_.mean(0) - exact).abs() / (all_.std(0) / len(outs) ** 0.5 + 1e-6)
    assert float(error.max()) < 5


def test_dropped_gradients_equal_those_of_the_same_mask_in_plain_autograd(
    build: Callable[..., Any],
) -> None:
    model = build("llama", dropout=0.3, target_modules=["o_proj"]).double()
    layer = model.get_base_model().model.layers[0].self_attn.o_proj
    fused = fuse(model)
    joined = layer.forward.func.__self__
    site = joined.factors[0][0].site
    x = torch.randn(1, 7, 32, dtype=torch.float64, requires_grad=True)
    layer(x).square().sum().backward()
    drops = dropped_positions(7 * 32, 0.3, Draw(0, 0, site))
    mask = torch.ones(7 * 32, dtype=torch.float64)
    mask[drops] = 0
    fused.restore()
    got = (x.grad, layer.lora_A["default"].weight.grad.clone(), layer.lora_B["default"].weight.grad)
    y = x.detach().clone().requires_grad_(True)
    a = layer.lora_A["default"].weight.detach().clone().requires_grad_(True)
    b = layer.lora_B["default"].weight.detach().clone().requires_grad_(True)
    dropped = y * mask.view(1, 7, 32) / 0.7
    out = y @ layer.base_layer.weight.t() + dropped @ a.t() @ b.t() * layer.scaling["default"]
    out.square().sum().backward()
    for mine, theirs in zip(got, (y.grad, a.grad, b.grad), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10)


@given(
    st.integers(0, 5000),
    st.floats(0.001, 0.9),
    st.integers(0, 2**63),
    st.integers(0, 10**6),
)
def test_dropped_positions_are_places_in_the_row(n: int, p: float, seed: int, step: int) -> None:
    drops = dropped_positions(n, p, Draw(seed, step, 3)).numpy()
    assert np.array_equal(drops, np.unique(drops))
    assert drops.size == 0 or (drops[0] >= 0 and drops[-1] < n)
    assert np.array_equal(drops, dropped_positions(n, p, Draw(seed, step, 3)).numpy())


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_as_many_drop_as_should_and_each_place_as_often(p: float) -> None:
    n, rounds = 400, 3000
    counts = np.zeros(n)
    for step in range(rounds):
        counts[dropped_positions(n, p, Draw(7, step, 0)).numpy()] += 1
    spread = np.sqrt(rounds * p * (1 - p))
    assert abs(counts.sum() - n * rounds * p) < 5 * spread * np.sqrt(n)
    assert np.abs(counts - rounds * p).max() < 5.5 * spread
    kept, keep = keep_mask(10**6, p, Draw(7, 1, 0))
    assert float(kept.float().mean()) == pytest.approx(keep, abs=0.003)


def test_linear_cross_entropy_equals_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(50, 8, generator=generator, dtype=torch.float64) * 30
    labels = torch.randint(0, 50, (37,), generator=generator)
    weights = torch.rand(37, generator=generator, dtype=torch.float64)
    mine = LinearCrossEntropy.apply(hidden, head, labels, 10, weights)  # type: ignore[no-untyped-call]
    mine.sum().backward()
    got = hidden.grad
    hidden.grad = None
    theirs = (
        torch.nn.functional.cross_entropy(hidden @ head.t(), labels, reduction="none") * weights
    )
    theirs.sum().backward()
    assert torch.allclose(mine, theirs, rtol=1e-12)
    assert torch.allclose(got, hidden.grad, rtol=1e-10, atol=1e-12)


def test_two_adapters_in_one_row_train_as_each_alone(build: Callable[..., Any]) -> None:
    """Fresh masks, ranks and scales of its own: what one adapter learns is its own affair."""
    from peft import LoraConfig

    pairs = _pairs()
    model = build("llama", dropout=0.2)
    model.add_adapter(
        "second",
        LoraConfig(r=5, lora_alpha=7, lora_dropout=0.1, target_modules=["q_proj", "up_proj"]),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)
        if "second" in name and "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.double()
    use_packed_attention(model, 40)
    layout = make_layout("causal", "packed", pairs, pad_id=0, decoder_start_id=0)
    names = {0: "default", 1: "second"}
    first, second = pairs[:3], pairs[2:]
    fused = fuse(model, names)
    fused.situation.seeds.update({0: 11, 1: 12})
    fused.situation.counters.update({0: 4, 1: 9})

    def gradients(chosen: list[EncodedPair], ranges: list[tuple[int, int, int]]) -> dict[str, Any]:
        model.zero_grad()
        fused.situation.ranges["source"] = ranges
        loss_sum(model, layout.batch(chosen)).backward()  # type: ignore[no-untyped-call]
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    n, m = sum(p.n_tokens for p in first), sum(p.n_tokens for p in second)
    together = gradients([*first, *second], [(0, 0, n), (1, n, n + m)])
    alone = {**gradients(first, [(0, 0, n)]), **gradients(second, [(1, 0, m)])}
    fused.restore()
    assert set(together) == set(alone)
    for name, wanted in alone.items():
        assert torch.allclose(together[name], wanted, rtol=1e-9, atol=1e-11), name


def test_training_through_the_fast_layers_moves_the_adapter_alone(
    build: Callable[..., Any],
) -> None:
    model = build("qwen2")
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = adapter_state(model)
    fused = fuse(model)
    layout = make_layout("causal", "longest_in_batch", _pairs(), pad_id=0, decoder_start_id=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    loss_sum(model, layout.batch(_pairs())).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    fused.restore()
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    after = adapter_state(model)
    assert all(not torch.equal(after[name], before[name]) for name in before)
