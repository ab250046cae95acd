"""The step a GPU records, run on a CPU: PEFT's gradients, fresh masks, and the recording itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_models import build_model
from veritune.config import LoraSection, ModelSection, TrainSection
from veritune.model import fixed_attention
from veritune.model.attention import use_packed_attention
from veritune.model.chunked_loss import ChunkedCrossEntropy
from veritune.model.device_dropout import Signals, keep_mask, keeping
from veritune.model.fuse_fixed import fuse_fixed, why_not_fixed
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.progress import Silent
from veritune.train import fixed_rows
from veritune.train.batches import EncodedPair, make_layout
from veritune.train.captured import CapturedStep
from veritune.train.fixed_rows import RowMaker
from veritune.train.loss import loss_sum
from veritune.train.step import EagerStep, Learner, Task, make_optimizer

ARCHITECTURES = ["llama", "qwen2", "t5"]
CPU = torch.device("cpu")
SECTION = TrainSection(learning_rate=1e-2, weight_decay=0.01)


def _pairs(n: int, seed: int = 0) -> list[EncodedPair]:
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 300) for _ in range(draw.randrange(low, high)))

    return [EncodedPair(str(i), tokens(2, 9), tokens(2, 20)) for i in range(n)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folders: dict[str, Path] = {}

    def load(architecture: str, t5_dropout: float = 0.0) -> Any:
        key = f"{architecture}-{t5_dropout}"
        if key not in folders:
            folder = tmp_path_factory.mktemp("models") / key
            folders[key] = build_model(architecture, folder, t5_dropout=t5_dropout)  # type: ignore[arg-type]
        section = ModelSection(name_or_path=str(folders[key]), dtype="float32")
        return load_model(section, Placement(CPU, torch.float32)).model

    return load


def _adapted(model: Any, name: str = "default", seed: int = 1, **lora: Any) -> Any:
    settings = {"r": 3, "dropout": 0.0, "target_modules": "all-linear", **lora}
    adapted = attach_lora(model, LoraSection(**settings), seed=seed, name=name)
    generator = torch.Generator().manual_seed(seed)
    for path, parameter in adapted.named_parameters():
        if f".{name}." in path:
            parameter.requires_grad_(True)
            if "lora_B" in path:
                torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return adapted.train()


def _learner(model: Any, name: str = "default", section: TrainSection = SECTION) -> Learner:
    own = [p for path, p in model.named_parameters() if f".{name}." in path]
    return Learner(name, own, make_optimizer(own, section, CPU), section.max_grad_norm)


def _fixed(
    model: Any, architecture: str, learners: dict[int, Learner] | None = None, **options: Any
) -> CapturedStep:
    kind: Any = "seq2seq" if architecture == "t5" else "causal"
    wide = next(model.parameters()).dtype
    return CapturedStep(
        model=model,
        maker=RowMaker(kind, 0, 0, wide),
        learners=learners or {0: _learner(model)},
        device=CPU,
        **{"recorder": None, "reporter": Silent(), **options},
    )


def _task(
    groups: list[list[EncodedPair]], counter: int = 0, seed: int = 5, rate: float = 1e-2
) -> Task:
    supervised = sum(len(pair.target_ids) for pairs in groups for pair in pairs)
    return Task(groups, supervised, rate, seed, counter)


def _weights(learner: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters])


def _pefts_gradients(model: Any, architecture: str, groups: list[list[EncodedPair]]) -> Any:
    kind: Any = "seq2seq" if architecture == "t5" else "causal"
    every = [pair for pairs in groups for pair in pairs]
    layout = make_layout(kind, "longest_in_batch", every, pad_id=0, decoder_start_id=0)
    total = 0.0
    for pairs in groups:
        loss = loss_sum(model, layout.batch(pairs))
        (loss / sum(len(p.target_ids) for p in every)).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("passes", [1, 2])
def test_loss_and_every_gradient_equal_pefts(
    base: Callable[..., Any], architecture: str, passes: int
) -> None:
    pairs = _pairs(6)
    groups = [pairs] if passes == 1 else [pairs[:4], pairs[4:]]
    wanted_loss, wanted = _pefts_gradients(_adapted(base(architecture)), architecture, groups)
    model = _adapted(base(architecture))
    section = SECTION.model_copy(update={"max_grad_norm": None})
    step = _fixed(model, architecture, {0: _learner(model, section=section)})
    kept: dict[str, torch.Tensor] = {}
    names = {id(p): name for name, p in model.named_parameters()}

    def keep(*_: Any) -> None:
        for parameter in step.learners[0].parameters:
            kept[names[id(parameter)]] = parameter.grad.clone()

    step.learners[0].optimizer.register_step_pre_hook(keep)
    outcome = step.launch(step.prepare({0: _task(groups)})).read()[0]
    step.close()
    assert outcome.loss == pytest.approx(wanted_loss, rel=1e-5)
    assert set(kept) == set(wanted)
    for name, gradient in wanted.items():
        error = (kept[name] - gradient).norm() / gradient.norm()
        assert error < 1e-5, (name, float(error))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flex_attention_sees_what_dense_attention_sees(
    base: Callable[..., Any], architecture: str
) -> None:
    """Its forward pass only: on a CPU it has no other."""
    model = _adapted(base(architecture))
    found = []
    for flex in (False, True):
        step = _fixed(model, architecture, flex=flex)
        found.append(step.losses({0: [_pairs(60)]})[0])
        step.close()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1] == found[1][1]


@given(st.lists(st.integers(1, 300), max_size=9), st.booleans())
def test_blocks_that_are_computed_are_those_that_torch_would_compute(
    lengths: list[int], causal: bool
) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    at = [n for n, length in enumerate(lengths) for _ in range(length)][:512]
    examples = torch.tensor([at + [len(lengths)] * (512 - len(at))], dtype=torch.int32)
    ours = fixed_attention._block_mask(examples, examples, causal)
    wanted = create_block_mask(
        ours.mask_mod, 1, 1, 512, 512, device="cpu", separate_full_blocks=False
    )
    assert torch.equal(ours.to_dense(), wanted.to_dense())
    assert torch.equal(ours.q_num_blocks, wanted.q_num_blocks)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_twenty_steps_end_where_the_cpus_steps_end(
    base: Callable[..., Any], architecture: str, short_rows: None
) -> None:
    """Clipping, decay and accumulation included, in fp64."""
    ends = []
    for fixed in (True, False):
        model = _adapted(base(architecture)).double()
        learner = _learner(model, section=SECTION.model_copy(update={"max_grad_norm": 0.05}))
        use_packed_attention(model, 40)
        kind: Any = "seq2seq" if architecture == "t5" else "causal"
        layout = make_layout(kind, "packed", _pairs(6), pad_id=0, decoder_start_id=0)
        step: Any = (
            _fixed(model, architecture, {0: learner})
            if fixed
            else EagerStep(model, layout, {0: learner}, CPU)
        )
        for number in range(20):
            groups = [_pairs(3, seed=number), _pairs(2, seed=100 + number)]
            step.launch(step.prepare({0: _task(groups, number * 2, rate=1e-3)})).read()
        losses = step.losses({0: [_pairs(4, seed=7)]})
        step.close()
        ends.append((_weights(learner), torch.tensor(losses[0])))
    for mine, theirs in zip(*ends, strict=True):
        assert (mine - theirs).norm() / theirs.norm() < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_three_rows_learn_what_each_learns_alone(
    base: Callable[..., Any], architecture: str, short_rows: None
) -> None:
    """Ranks, targets and masks of its own, whatever its neighbours' rows need."""
    sections: list[dict[str, Any]] = [
        {"r": 2, "dropout": 0.2, "target_modules": "attention"},
        {"r": 5, "dropout": 0.0, "target_modules": "all-linear"},
        {"r": 3, "dropout": 0.4, "target_modules": "mlp", "use_rslora": True},
    ]

    def train(numbers: list[int]) -> dict[int, torch.Tensor]:
        model = base(architecture, 0.1)
        for number in numbers:
            model = _adapted(model, f"slot{number}", seed=number, **sections[number])
        model.double()
        learners = {number: _learner(model, f"slot{number}") for number in numbers}
        step = _fixed(model, architecture, learners)
        for at in range(4):
            # The second has much longer rows, and stops early.
            sizes = {0: 2, 1: 45, 2: 3}
            tasks = {
                n: _task([_pairs(sizes[n], seed=10 * n + at)], at, seed=n)
                for n in numbers
                if n != 1 or at < 2
            }
            outcomes = step.launch(step.prepare(tasks)).read()
            assert set(outcomes) == set(tasks)
        step.close()
        return {number: _weights(learner) for number, learner in learners.items()}

    together = train([0, 1, 2])
    for number in range(3):
        alone = train([number])[number]
        error = (together[number] - alone).norm() / alone.norm()
        assert error < 1e-10, (number, float(error))


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_masks_are_fresh_at_every_step_and_their_mean_is_no_mask(
    base: Callable[..., Any], architecture: str
) -> None:
    model = _adapted(base(architecture), dropout=0.3, target_modules="attention")
    step = _fixed(model, architecture)
    rows = step.maker.make([[_pairs(3)]], [1.0])
    tensors = {name: tensor[0] for name, tensor in rows.tensors.items()}

    def losses(counter: int) -> torch.Tensor:
        step.tell(torch.tensor([3]), torch.tensor([counter]))
        with torch.no_grad():
            return step.forward(tensors, rows.shape)

    assert not torch.equal(losses(1), losses(2))
    assert torch.equal(losses(1), losses(1))
    layer = next(m for m in model.modules() if hasattr(m, "lora_A"))
    width = layer.lora_A["default"].weight.shape[1]
    x = torch.randn(1, 5, width, generator=torch.Generator().manual_seed(0))
    outs = []
    with torch.no_grad():
        for counter in range(200):
            step.tell(torch.tensor([3]), torch.tensor([counter]))
            joined = layer.forward.func.__self__
            joined.training = True
            outs.append(joined(x))
        joined.training = False
        exact = joined(x)
    step.close()
    every = torch.stack(outs)
    error = (every.mean(0) - exact).abs() / (every.std(0) / len(outs) ** 0.5 + 1e-6)
    assert float(error.max()) < 5


def test_gradients_through_masks_are_those_of_plain_autograd(base: Callable[..., Any]) -> None:
    model = _adapted(base("llama"), dropout=0.3, target_modules=["o_proj"]).double()
    layer = model.get_base_model().model.layers[0].self_attn.o_proj
    fused = fuse_fixed(model, {0: "default"}, CPU)
    fused.signals.counters.fill_(4)
    x = torch.randn(1, 7, 32, dtype=torch.float64, requires_grad=True)
    layer(x).square().sum().backward()
    joined = layer.forward.func.__self__
    p = torch.tensor([0.3])
    mask = keep_mask(fused.signals.keys(joined.site0), 7, 32, p) / keeping(p)
    fused.restore()
    a, b = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    got = [x.grad.clone(), a.grad.clone(), b.grad.clone()]
    for tensor in (x, a, b):
        tensor.grad = None
    dropped = x * mask.double()
    out = x @ layer.base_layer.weight.t() + dropped @ a.t() @ b.t() * layer.scaling["default"]
    out.square().sum().backward()
    for mine, theirs in zip(got, (x.grad, a.grad, b.grad), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-7, atol=1e-9)


def test_attention_whose_weights_drop_out_has_autograds_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, 12, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )
    examples = torch.tensor([[0] * 5 + [1] * 7, [0] * 9 + [1] * 3], dtype=torch.int32)
    mask = fixed_attention.row_masks(examples, None, flex=False)["self_mask"]
    bias = torch.randn(1, 4, 12, 12, generator=generator, dtype=torch.float64)
    keys = Signals.on(CPU, 2).keys(torch.tensor(3, dtype=torch.int32))
    out = fixed_attention._Dense.apply(q, k, v, mask, bias, 0.3, keys, 0.25)
    out.square().sum().backward()
    got = [t.grad.clone() for t in (q, k, v)]
    for t in (q, k, v):
        t.grad = None
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.3 + bias
    p = torch.softmax(scores.masked_fill(~mask, float("-inf")), -1)
    kept = fixed_attention._kept(p, keys, 0.25)
    assert 0.6 < float((kept > 0).double().mean()) < 0.9
    plain = (p * kept) @ v.repeat_interleave(2, 1)
    assert torch.allclose(out, plain)
    plain.square().sum().backward()
    for mine, theirs in zip(got, (q.grad, k.grad, v.grad), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-11)


@given(st.integers(0, 2**62), st.integers(0, 10**6), st.integers(0, 2**21), st.floats(0.01, 0.9))
def test_masks_do_not_depend_on_the_rows_length(seed: int, step: int, site: int, p: float) -> None:
    signals = Signals(torch.tensor([seed]), torch.tensor([step]))
    keys = signals.keys(torch.tensor(site, dtype=torch.int32))
    chance = torch.tensor([p])
    short, long = keep_mask(keys, 8, 32, chance), keep_mask(keys, 40, 32, chance)
    assert torch.equal(short, long[:, :8])
    if p > 0.2:
        assert not torch.equal(long[:, :8], long[:, 8:16])


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_as_many_drop_as_should_and_no_place_is_favoured(p: float) -> None:
    rounds, rows, columns = 400, 24, 96
    signals = Signals(torch.arange(rounds), torch.arange(rounds) // 3)
    keys = signals.keys(torch.tensor(5, dtype=torch.int32))
    kept = keep_mask(keys, rows, columns, torch.full((rounds,), p)).double()
    spread = (p * (1 - p)) ** 0.5
    n = kept.numel()
    assert abs(float((1 - kept).mean()) - p) < 5 * spread / n**0.5
    for dims in ((0,), (0, 1), (0, 2), (1, 2)):
        mean = (1 - kept).mean(dims)
        each = n / mean.numel()
        assert float((mean - p).abs().max()) < 6 * spread / each**0.5, dims
    # Neighbouring masks and places are not alike.
    centred = kept - kept.mean()
    for shifted in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1],
                    centred[..., 1:] * centred[..., :-1]):  # fmt: skip
        assert abs(float(shifted.mean())) < 5 * spread**2 / shifted.numel() ** 0.5


def test_chunked_cross_entropy_equals_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    from veritune.model import chunked_loss

    monkeypatch.setattr(chunked_loss, "chunk_rows", lambda _: 10)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(50, 8, generator=generator, dtype=torch.float64) * 30
    labels = torch.randint(0, 50, (37,), generator=generator)
    factors = torch.rand(37, generator=generator, dtype=torch.float64)
    mine = ChunkedCrossEntropy.apply(hidden, head, labels, factors)
    mine.sum().backward()
    got, hidden.grad = hidden.grad, None
    plain = torch.nn.functional.cross_entropy(hidden @ head.t(), labels, reduction="none") * factors
    plain.sum().backward()
    assert torch.allclose(mine, plain, rtol=1e-12)
    assert torch.allclose(got, hidden.grad, rtol=1e-10, atol=1e-12)


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets at which a CPU need not compute much padding."""
    monkeypatch.setattr(fixed_rows, "BUDGETS", (64, 128, 256, 512, 1024))


class _Tape:
    """A recorder without a device: it notes what is asked of it, and replays by running."""

    def __init__(self, fails: str = "") -> None:
        self.events: list[str] = []
        self.fails = fails

    def warm_up(self, body: Callable[[], None]) -> None:
        self.events.append("warm up")
        for _ in range(3):
            body()

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        self.events.append("record")
        if self.fails:
            raise RuntimeError(self.fails)

        def replay() -> None:
            self.events.append("replay")
            body()

        return replay


class _Heard(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def test_every_shape_is_recorded_once_and_warming_up_changes_nothing(
    base: Callable[..., Any], short_rows: None
) -> None:
    plain, taped = _adapted(base("llama"), dropout=0.2), _adapted(base("llama"), dropout=0.2)
    tape = _Tape()
    steps = [_fixed(plain, "llama"), _fixed(taped, "llama", recorder=tape)]
    shapes = []
    for number in range(6):
        pairs = _pairs(30 if number == 3 else 4, seed=number)
        prepared = [step.prepare({0: _task([pairs], number)}) for step in steps]
        shapes.append(prepared[1].rows.shape)
        outcomes = [s.launch(p).read()[0] for s, p in zip(steps, prepared, strict=True)]
        assert outcomes[0] == outcomes[1]
    assert torch.equal(_weights(steps[0].learners[0]), _weights(steps[1].learners[0]))
    assert 1 < len(set(shapes)) < 6
    assert tape.events.count("replay") == 6
    assert tape.events.count("record") == tape.events.count("warm up") == len(set(shapes))
    assert steps[1].losses({0: [_pairs(3)]}) == steps[0].losses({0: [_pairs(3)]})
    assert tape.events[-3:] == ["warm up", "record", "replay"]


def test_what_cannot_be_recorded_runs_step_by_step_and_says_so(base: Callable[..., Any]) -> None:
    plain, taped = _adapted(base("llama")), _adapted(base("llama"))
    heard, tape = _Heard(), _Tape(fails="operation not permitted when stream is capturing")
    steps = [_fixed(plain, "llama"), _fixed(taped, "llama", recorder=tape, reporter=heard)]
    for number in range(3):
        pairs = _pairs(4, seed=number)
        outcomes = [s.launch(s.prepare({0: _task([pairs], number)})).read()[0] for s in steps]
        assert outcomes[0] == outcomes[1]
    assert tape.events == ["warm up", "record"]
    assert any("not permitted" in said for said in heard.said)


def test_rows_longer_than_every_budget_are_not_recorded(base: Callable[..., Any]) -> None:
    tape = _Tape()
    step = _fixed(_adapted(base("llama"), r=1, target_modules=["q_proj"]), "llama", recorder=tape)
    long = [EncodedPair(str(i), (5,) * 60, (6,) * 900) for i in range(9)]
    rows = step.maker.make([[long]], [1.0])
    assert rows.shape.source == 2 * fixed_rows.BUDGETS[-1] and not rows.shape.is_usual
    step.close()
    assert not tape.events


def test_a_learner_whose_gradient_is_not_finite_is_left_as_it_was(base: Callable[..., Any]) -> None:
    model = _adapted(base("llama"))
    step = _fixed(model, "llama")
    with torch.no_grad():
        step.learners[0].parameters[0].view(-1)[0] = float("inf")
    before = _weights(step.learners[0])
    outcome = step.launch(step.prepare({0: _task([_pairs(3)])})).read()[0]
    assert not outcome.is_finite
    assert torch.equal(_weights(step.learners[0]), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_it_leaves_the_model_it_found(base: Callable[..., Any], architecture: str) -> None:
    model = _adapted(base(architecture))
    kind: Any = "seq2seq" if architecture == "t5" else "causal"
    layout = make_layout(kind, "longest_in_batch", _pairs(3), pad_id=0, decoder_start_id=0)

    def loss() -> float:
        with torch.no_grad():
            return float(loss_sum(model, layout.batch(_pairs(3))))

    before, modules = loss(), {id(m): set(m.__dict__) for m in model.modules()}
    step = _fixed(model, architecture)
    step.losses({0: [_pairs(3)]})
    step.close()
    assert loss() == before
    assert {id(m): set(m.__dict__) for m in model.modules()} == modules


def test_models_it_cannot_serve_are_told_apart(base: Callable[..., Any]) -> None:
    ours = {0: "default"}
    assert why_not_fixed(_adapted(base("llama")), ours, 40) is None
    assert why_not_fixed(_adapted(base("t5")), ours, 40) is None
    assert "plain LoRA" in str(why_not_fixed(_adapted(base("llama"), use_dora=True), ours, 40))
    assert "more than" in str(why_not_fixed(_adapted(base("qwen2"), bias="all"), ours, 40))
    assert "adapter" in str(why_not_fixed(base("llama"), ours, 40))
    sliding = _adapted(base("llama"))
    sliding.config.sliding_window = 8
    assert "packed" in str(why_not_fixed(sliding, ours, 40))
