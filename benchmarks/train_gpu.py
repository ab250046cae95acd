"""Training speed on a GPU against what people use now, in one run; on a CPU with ``--small``.

train/codet5-original    the original recipe: r=4 on q, k, v, o of CodeT5-base's shape, batch 8
sweep/codet5-16          sixteen configurations of it at once, per adapter-step
train/smollm2-135m-b8    SmolLM2-135M's shape, batch 8
train/qwen2.5-0.5b-b64   Qwen2.5-0.5B's shape, batch 64
train/qwen2.5-1.5b-8k    Qwen2.5-1.5B's shape, 64 examples in rows of 8,192 tokens
startup/codet5-original  from a loaded model to the first step made

Weights are random and nothing is read from a network.  Peers: the HF Trainer with PEFT, and, where
they can be imported, TRL, the HF Trainer with Liger's kernels, and Unsloth.

    python benchmarks/train_gpu.py --steps 20
    python benchmarks/train_gpu.py --small --steps 1 --device cpu

``unit`` is ms a step or tokens/s; ``ratio`` is how many times better than the peer;
``floor_fraction`` is the share of the device's measured rate of matrix products that the
necessary products (4 FLOPs a weight and token) reach.  Prints a JSON line each and a table, and
writes nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command itself sets it
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from rich.console import Console
from rich.table import Table

from veritune.config import LoraSection, TrainSection
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import cpu_name
from veritune.model.lora import attach_lora
from veritune.progress import Silent
from veritune.train.batches import EncodedPair, make_layout
from veritune.train.flops import count_weights
from veritune.train.joint import JointTrainers
from veritune.train.loop import Training
from veritune.train.trainers import Configuration

LORA = LoraSection(r=4, alpha=32, dropout=0.01, target_modules="attention")


@dataclass(frozen=True)
class Work:
    """One model's shape with its batch.

    Attributes:
        adapters: how many train at once.
        lengths: (source, target) tokens of the pairs.
    """

    name: str
    build: Callable[[], Any]
    batch_size: int
    lengths: list[tuple[int, int]]
    unit: str = "ms/step"
    adapters: int = 1

    @property
    def kind(self) -> Any:
        """Of the model."""
        return "seq2seq" if "codet5" in self.name else "causal"

    def pairs(self) -> list[EncodedPair]:
        """Random tokens of those lengths."""
        generator = torch.Generator().manual_seed(0)

        def ids(n: int) -> tuple[int, ...]:
            return tuple(torch.randint(5, 400, (n,), generator=generator).tolist())

        return [EncodedPair(str(i), ids(s), ids(t)) for i, (s, t) in enumerate(self.lengths)]


def works(small: bool) -> list[Work]:
    """Every row of the table; with ``small``, two-layer models and short rows."""
    generator = torch.Generator().manual_seed(1)

    def lengths(n: int, source: int, target: int) -> list[tuple[int, int]]:
        if small:
            n, source, target = min(n, 8), 8, 16
        drawn = torch.randint(2, 2 * target, (n,), generator=generator).tolist()
        return [(source, length) for length in drawn]

    def t5() -> Any:
        from transformers import T5Config, T5ForConditionalGeneration

        wide = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
        tiny = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
        size = tiny if small else wide
        vocabulary = 500 if small else 32100
        return T5ForConditionalGeneration(
            T5Config(vocab_size=vocabulary, decoder_start_token_id=0, **size)
        )

    def decoder(*shape: int, qwen: bool) -> Callable[[], Any]:
        def build() -> Any:
            import transformers

            hidden, inner, layers, heads, kv, vocabulary = (
                (64, 128, 2, 4, 2, 500) if small else shape
            )
            config, model = (
                (transformers.Qwen2Config, transformers.Qwen2ForCausalLM)
                if qwen
                else (transformers.LlamaConfig, transformers.LlamaForCausalLM)
            )
            return model(
                config(
                    hidden_size=hidden,
                    intermediate_size=inner,
                    num_hidden_layers=layers,
                    num_attention_heads=heads,
                    num_key_value_heads=kv,
                    vocab_size=vocabulary,
                    tie_word_embeddings=True,
                    bos_token_id=None,
                    eos_token_id=2,
                    pad_token_id=0,
                )
            )

        return build

    original, chat, many = lengths(40, 12, 80), lengths(64, 45, 66), lengths(256, 45, 66)
    half = decoder(896, 4864, 24, 14, 2, 151936, qwen=True)
    large = decoder(1536, 8960, 28, 12, 2, 151936, qwen=True)
    smollm2 = decoder(576, 1536, 30, 9, 3, 49152, qwen=False)
    size = 4 if small else 64
    return [
        Work("train/codet5-original", t5, 8, original),
        Work("sweep/codet5-16", t5, 8, original, "ms/adapter-step", 2 if small else 16),
        Work("train/smollm2-135m-b8", smollm2, 8, chat),
        Work("train/qwen2.5-0.5b-b64", half, size, many, "tokens/s"),
        Work("train/qwen2.5-1.5b-8k", large, size, many, "tokens/s"),
    ]


@dataclass(frozen=True)
class Speed:
    """Seconds of one optimizer step of one adapter, and its real tokens."""

    seconds: float
    tokens: float

    def in_unit(self, unit: str) -> float:
        """The speed as the table prints it."""
        return self.tokens / self.seconds if unit == "tokens/s" else 1000 * self.seconds


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=20, help="timed optimizer steps")
    arguments.add_argument("--warm-up", type=int, default=5, help="steps before the clock starts")
    arguments.add_argument("--small", action="store_true", help="tiny shapes, for a CPU")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--only", default="", help="run the works whose name contains this")
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(chosen.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    peak = products_per_second(device)
    table = Table(title=f"one optimizer step, {name}, torch {torch.__version__}")
    for column in ("work", "peer", "unit", "Veritune", "peer's", "times better", "of the floor"):
        table.add_column(column)
    for work, peer, ours, theirs, unit, floor in measured(chosen, device, peak):
        better = ours / theirs if unit == "tokens/s" else theirs / ours
        line = {
            "work": work,
            "ours": round(ours, 3),
            "peer": round(theirs, 3),
            "peer_name": peer,
            "unit": unit,
            "ratio": round(better, 2),
            "floor_fraction": round(floor, 4),
            "device": name,
        }
        print(json.dumps(line), flush=True)
        row = [f"{ours:,.1f}", f"{theirs:,.1f}", f"{better:.2f}", f"{100 * floor:.1f} %"]
        table.add_row(work, peer, unit, *row)
    Console().print(table)


def measured(
    chosen: argparse.Namespace, device: torch.device, peak: float
) -> Iterator[tuple[str, str, float, float, str, float]]:
    """(work, peer, ours, theirs, unit, share of the floor)."""
    for work in works(chosen.small):
        if chosen.only not in work.name:
            continue
        ours, first, flops = veritune(work, chosen, device)
        floor = flops / peak / ours.seconds
        peers = dict(peers_of(work, chosen, device))
        for peer, speed in peers.items():
            values = ours.in_unit(work.unit), speed.in_unit(work.unit)
            yield work.name, peer, *values, work.unit, floor
        if work.name == "train/codet5-original" and peers:
            peer, speed = next(iter(peers.items()))
            yield "startup/codet5-original", peer, 1000 * first, 1000 * speed.seconds, "ms", 0.0


def veritune(
    work: Work, chosen: argparse.Namespace, device: torch.device
) -> tuple[Speed, float, float]:
    """(our speed, seconds to the end of the first step, necessary FLOPs of an adapter-step)."""
    pairs, n = work.pairs(), chosen.steps + chosen.warm_up
    layout = make_layout(work.kind, "packed", pairs, pad_id=0, decoder_start_id=0)
    section = TrainSection(
        padding="packed", batch_size=work.batch_size, max_steps=n, epochs=10**6, keep="last"
    )
    base = prepared(work, device)
    if work.adapters > 1:
        trainers = JointTrainers(base, layout, pairs, [], slots=work.adapters, device=device)
        for slot in range(work.adapters):
            trainers.start(slot, Configuration(slot, LORA, section, slot))
        first, seconds = timed(trainers.advance, chosen.warm_up, chosen.steps, device)
        tokens = sum(trainers.counts(s)["real_tokens"] for s in range(work.adapters)) / n
        weights = count_weights(trainers._peft)
        share = work.adapters * chosen.steps
        speed = Speed(seconds / share, tokens / work.adapters)
        return speed, first, _flops(weights, work, tokens / work.adapters)
    model = attach_lora(base, LORA, seed=0)
    use_packed_attention(model, max(pair.n_tokens for pair in pairs))
    weights = count_weights(model)
    ends: list[float] = []

    @contextlib.contextmanager
    def watch() -> Iterator[None]:
        yield
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        summary = Training(
            model=model,
            layout=layout,
            section=section,
            train=pairs,
            validation=[],
            seed=0,
            device=device,
            folder=Path(folder) / "checkpoints",
            log_path=Path(folder) / "log.jsonl",
            inputs_sha256="",
            weights=weights,
            reporter=Silent(),
            watch=watch,
            resumable=False,
        ).run()
    tokens = summary["real_tokens"] / n
    seconds = (ends[-1] - ends[chosen.warm_up - 1]) / chosen.steps
    return Speed(seconds, tokens), ends[0] - started, _flops(weights, work, tokens)


def _flops(weights: Any, work: Work, tokens: float) -> float:
    source = sum(s for s, _ in work.lengths) / sum(s + t for s, t in work.lengths)
    pair = work.kind == "seq2seq"
    parts = (tokens * source, tokens * (1 - source)) if pair else (tokens, 0)
    # ``model_flops`` counts 6 a weight; LoRA needs no gradient of the frozen ones.
    return float(weights.model_flops(*(int(part) for part in parts))) * 4 / 6


def prepared(work: Work, device: torch.device) -> Any:
    """The base: bf16 and frozen."""
    torch.manual_seed(0)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return work.build().to(device, dtype).requires_grad_(False)


def timed(
    advance: Callable[[int], Any], warm_up: int, steps: int, device: torch.device
) -> tuple[float, float]:
    """(seconds of the first step, seconds of ``steps`` steps after warming up)."""
    started = time.perf_counter()
    advance(1)
    _wait(device)
    first = time.perf_counter() - started
    advance(warm_up - 1)
    _wait(device)
    started = time.perf_counter()
    advance(steps)
    _wait(device)
    return first, time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peers_of(
    work: Work, chosen: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, Speed]]:
    """Every peer that is installed and runs; one that fails says so on stderr."""
    peers: dict[str, Callable[[Any], Any]] = {"HF Trainer + PEFT": lambda model: model}
    if work.kind == "causal":
        if importlib.util.find_spec("liger_kernel"):
            peers["HF Trainer + PEFT + Liger"] = _with_liger
        if importlib.util.find_spec("unsloth"):
            peers["Unsloth's layers + HF Trainer"] = _with_unsloth
        if importlib.util.find_spec("trl"):
            peers["TRL SFTTrainer + PEFT, packed"] = lambda model: model
    for name, change in peers.items():
        try:
            kind = "trl" if name.startswith("TRL") else "hf"
            yield name, trainer_speed(work, chosen, device, change, kind)
        except Exception as error:  # noqa: BLE001 - a peer may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            print(f"{work.name}: {name} failed: {lines[0]}", file=sys.stderr)


def _with_liger(model: Any) -> Any:
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model=model.get_base_model())
    return model


def _with_unsloth(model: Any) -> Any:
    from unsloth import FastLanguageModel

    return FastLanguageModel.patch_peft_model(model, use_gradient_checkpointing=False)


def trainer_speed(
    work: Work, chosen: argparse.Namespace, device: torch.device, change: Any, kind: str
) -> Speed:
    """The speed of one of the Trainer's kin on the same pairs, padded or packed by its default."""
    from transformers import TrainerCallback

    pairs, n = work.pairs(), chosen.steps + chosen.warm_up
    model = change(attach_lora(prepared(work, device), LORA, seed=0))
    order = [pairs[i % len(pairs)] for i in range(n * work.batch_size)]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            _wait(device)
            ends.append(time.perf_counter())

    options = {
        "max_steps": n,
        "learning_rate": 5e-4,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        "bf16": False,
    }
    make = _trl_trainer if kind == "trl" else _hf_trainer
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as quiet,
        contextlib.redirect_stdout(quiet),
    ):
        trainer, tokens = make(work, model, order, {"output_dir": folder, **options})
        trainer.add_callback(Clock())
        trainer.train()
    seconds = (ends[-1] - ends[chosen.warm_up - 1]) / chosen.steps
    wanted = sum(p.n_tokens for p in order[chosen.warm_up * work.batch_size :]) / chosen.steps
    # A packed row holds about as many tokens as our batch; compare what the same tokens take.
    return Speed(seconds * wanted / (tokens or wanted), wanted)


def _hf_trainer(
    work: Work, model: Any, order: list[EncodedPair], options: dict[str, Any]
) -> tuple[Any, float]:
    """Transformers' own, and no number of tokens: it trains the very batches."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        per_device_train_batch_size=work.batch_size, remove_unused_columns=False, **options
    )
    collator = functools.partial(padded, work)
    return Trainer(model=model, args=arguments, train_dataset=order, data_collator=collator), 0.0


def _trl_trainer(
    work: Work, model: Any, order: list[EncodedPair], options: dict[str, Any]
) -> tuple[Any, float]:
    """TRL's, one packed row a step, and the tokens of a row."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<end>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )
    rows = [
        {
            "input_ids": [*p.source_ids, *p.target_ids],
            "completion_mask": [0] * len(p.source_ids) + [1] * len(p.target_ids),
        }
        for p in order
    ]
    arguments = SFTConfig(
        packing=True,
        max_length=max(p.n_tokens for p in order)
        + sum(p.n_tokens for p in order[: work.batch_size]),
        per_device_train_batch_size=1,
        **options,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    lengths = [len(row) for row in trainer.train_dataset["input_ids"]]
    return trainer, sum(lengths) / len(lengths)


def padded(work: Work, pairs: list[EncodedPair]) -> dict[str, torch.Tensor]:
    """A batch as transformers' collators make it."""

    def filled(rows: list[list[int]], filler: int) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])

    if work.kind == "seq2seq":
        return {
            "input_ids": filled([list(p.source_ids) for p in pairs], 0),
            "attention_mask": filled([[1] * len(p.source_ids) for p in pairs], 0),
            "labels": filled([list(p.target_ids) for p in pairs], -100),
        }
    return {
        "input_ids": filled([[*p.source_ids, *p.target_ids] for p in pairs], 0),
        "attention_mask": filled([[1] * p.n_tokens for p in pairs], 0),
        "labels": filled([[-100] * len(p.source_ids) + [*p.target_ids] for p in pairs], -100),
    }


def products_per_second(device: torch.device) -> float:
    """FLOP/s of a plain matrix product in the base's precision."""
    n, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    main()
