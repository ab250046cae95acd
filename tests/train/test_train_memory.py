"""What steps keep, foretold and measured; the same gradients from less memory."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from test_main_job import invoke, write_recipe
from tiny_models import build_model
from veritune.config import LoraSection, ModelSection
from veritune.model.attention import use_packed_attention
from veritune.model.fuse import fuse
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.model.recompute import recomputed
from veritune.train.batches import EncodedPair, make_layout
from veritune.train.loss import token_losses
from veritune.train.memory import Estimator, estimator

CPU = torch.device("cpu")


def _pairs(n: int, scale: int = 1) -> list[EncodedPair]:
    draw = random.Random(0)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 300) for _ in range(scale * draw.randrange(low, high)))

    return [EncodedPair(str(i), tokens(4, 20), tokens(10, 60)) for i in range(n)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folders: dict[str, Path] = {}

    def load(architecture: str, t5_dropout: float = 0.1, size: int = 64) -> Any:
        key = f"{architecture}-{t5_dropout}-{size}"
        if key not in folders:
            folder = tmp_path_factory.mktemp("models") / key
            folders[key] = build_model(
                architecture,  # type: ignore[arg-type]
                folder,
                t5_dropout=t5_dropout,
                size=size,
            )
        section = ModelSection(name_or_path=str(folders[key]), dtype="float32")
        return load_model(section, Placement(CPU, torch.float32)).model

    return load


def _made(
    base: Any, architecture: str, padding: Any, targets: str, **options: Any
) -> tuple[Any, Any, list[EncodedPair], Estimator]:
    pairs = _pairs(6)
    section = LoraSection(r=2, dropout=0.1, target_modules=targets)
    model = attach_lora(base(architecture, **options), section, seed=0)
    kind: Any = "seq2seq" if architecture == "t5" else "causal"
    layout = make_layout(kind, padding, pairs, pad_id=0, decoder_start_id=0)
    if padding == "packed":
        use_packed_attention(model, max(p.n_tokens for p in pairs))
    made = estimator(model, layout, pairs, dtype=torch.float32, captured=False)
    return model.train(), layout, pairs, made


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("padding", ["packed", "longest_in_batch"])
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_is_kept_is_what_was_foretold(
    base: Callable[..., Any], architecture: str, padding: str, targets: str, dropout: float
) -> None:
    """Every tensor that autograd keeps, counted by its storage, against the sums."""
    model, layout, pairs, made = _made(
        base, architecture, padding, targets, t5_dropout=dropout, size=64
    )
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    fused = fuse(model)
    own |= {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = token_losses(model, layout.batch(pairs)).sum()
    found = sum(n_bytes for n_bytes, _ in kept.values())
    foretold = made.need(len(pairs), recomputes=False).activations
    del loss
    fused.restore()
    assert foretold == pytest.approx(found, rel=0.15)


_MEASURED = """
import sys
from pathlib import Path
import torch
from veritune.config import LoraSection, TrainSection
from veritune.model.allocator import give_back_early
from veritune.model.attention import use_packed_attention
from veritune.model.lora import attach_lora
from veritune.model.memory import StepMemory
from veritune.progress import Silent
from veritune.train.batches import EncodedPair, make_layout
from veritune.train.flops import count_weights
from veritune.train.loop import Training
from veritune.train.memory import estimator
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_num_threads(1)
padding, gives_back, folder = sys.argv[1], sys.argv[2] == "given-back", Path(sys.argv[3])
if gives_back:
    give_back_early()
pairs = [EncodedPair(str(i), (5,) * (40 + i), (6,) * (200 + 3 * i)) for i in range(8)]
layout = make_layout("causal", padding, pairs, pad_id=0, decoder_start_id=0)
memory = StepMemory(torch.device("cpu"))
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=8000, hidden_size=256, intermediate_size=768, num_hidden_layers=12,
    num_attention_heads=8, num_key_value_heads=4, bos_token_id=None, eos_token_id=3,
    pad_token_id=0,
)
model = attach_lora(LlamaForCausalLM(config).requires_grad_(False), LoraSection(r=4), seed=0)
if padding == "packed":
    use_packed_attention(model, 400)
need = estimator(model, layout, pairs, dtype=torch.float32, captured=False).need(
    8, recomputes=False)
Training(
    model=model, layout=layout, train=pairs, validation=[], seed=0, device=torch.device("cpu"),
    section=TrainSection(padding=padding, batch_size=8, max_steps=2, epochs=9, keep="last"),
    folder=folder / "checkpoints", log_path=folder / "log.jsonl", inputs_sha256="",
    weights=count_weights(model), reporter=Silent(), watch=memory.watch,
).run()
resident = need.resident(2**60, torch.device("cpu"))
print(need.total, resident, memory.to_json()["peak_memory_bytes"])
"""


def _resident(padding: str, blocks: str, folder: Path) -> tuple[int, int, int]:
    """(bytes of tensors, resident as foretold, resident as measured), in a process of its own."""
    command = [sys.executable, "-c", _MEASURED, padding, blocks, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tensors, foretold, measured = map(int, done.stdout.split())
    return tensors, foretold, measured


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["packed", "longest_in_batch"])
def test_the_resident_set_of_training_is_foretold_within_15_percent(
    padding: str, tmp_path: Path
) -> None:
    tensors, _, measured = _resident(padding, "given-back", tmp_path)
    assert tensors == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
def test_freed_blocks_that_are_kept_add_no_more_than_foretold(tmp_path: Path) -> None:
    """How many are kept differs from process to process; what is foretold is the most."""
    tensors, foretold, measured = _resident("packed", "kept", tmp_path)
    assert 0.85 * tensors < measured < 1.05 * foretold


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("padding", ["packed", "longest_in_batch"])
def test_activations_computed_again_give_the_same_gradients(
    base: Callable[..., Any], architecture: str, padding: str
) -> None:
    found = []
    for again in (False, True):
        model, layout, pairs, _ = _made(base, architecture, padding, "attention", size=32)
        fused = fuse(model)
        torch.manual_seed(3)  # padded T5 drops attention weights by torch's generator
        with recomputed(model, again):
            token_losses(model, layout.batch(pairs)).sum().backward()
        fused.restore()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        assert torch.allclose(found[1][name], gradient, rtol=1e-5, atol=1e-7), name


def test_weights_that_stay_mapped_are_counted_twice_where_they_are_laid_side_by_side(
    base: Callable[..., Any],
) -> None:
    model, layout, pairs, plain = _made(base, "llama", "packed", "attention")
    joined = sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if name.endswith(("q_proj.base_layer", "k_proj.base_layer", "v_proj.base_layer"))
        or name.endswith(("gate_proj", "up_proj"))
    )
    mapped = estimator(model, layout, pairs, dtype=torch.float32, captured=False, mapped=True).need(
        6, recomputes=False
    )
    assert mapped.weights - plain.need(6, recomputes=False).weights == 4 * joined > 0


def test_blocks_are_given_back_where_memory_is_what_counts(base: Callable[..., Any]) -> None:
    *_, made = _made(base, "llama", "packed", "attention")
    kept, again = (made.need(6, recomputes=wanted) for wanted in (False, True))
    assert kept.resident(2**50, CPU) > kept.total == kept.resident(kept.total, CPU)
    assert again.gives_back(2**50, CPU) and again.resident(2**50, CPU) == again.total
    cuda = torch.device("cuda")
    assert kept.resident(2**50, cuda) == kept.total and not again.gives_back(0, cuda)


def test_settings_that_are_named_would_fit(base: Callable[..., Any]) -> None:
    *_, made = _made(base, "llama", "packed", "attention")
    whole = made.need(6, recomputes=False).total
    free = max(made.need(3, recomputes=False).total, made.need(6, recomputes=True).total)
    assert free < whole
    settings = made.fitting(6, 1, free, recomputes=False)
    assert settings[0].startswith("--set train.batch_size=3 --set train.accumulation_steps=2")
    assert "activation_checkpointing=on" in settings[1] and len(settings) == 2
    for size, again in ((3, False), (6, True)):
        assert made.need(size, recomputes=again).total <= free
    tight = made.need(1, recomputes=True, longest=30).total
    [last] = made.fitting(1, 1, tight, recomputes=True)
    assert last.startswith("--set data.max_pair_tokens=")
    assert made.fitting(6, 1, 1000, recomputes=False) == []


def test_a_run_may_ask_for_it_and_a_quantised_base_is_refused_on_a_cpu(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder, train__activation_checkpointing="on")
    outcome = invoke("train", recipe)
    assert outcome.exit_code == 0, outcome.stderr
    other = ("--set", f"output_dir={tmp_path / 'other'}", "--set", "model.device=cpu")
    refused = invoke("run", recipe, *other, "--set", "model.quantization=4bit")
    assert refused.exit_code == 3 and "CUDA" in refused.stderr
