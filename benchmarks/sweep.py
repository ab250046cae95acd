"""What a sweep costs: 1, 4, 16 and 64 adapters trained together against one by one, in one run.

    python benchmarks/sweep.py                  # a small random model, about a minute on a CPU
    python benchmarks/sweep.py --model bundled  # SmolLM2-135M; minutes on a CPU
    python benchmarks/sweep.py --device cuda --model llama-135m

Every adapter has its own seed, rate and batches of 8.  ``ours`` and ``peer`` are milliseconds per
step of one adapter, together and one by one, on a CPU of processor time (which other processes
lengthen less than the clock's); the two sides take turns, and the median of the rounds counts.
``ratio`` is how many times cheaper an adapter's step is together; ``floor_fraction`` is the share
of this device's measured rate of matrix products that the steps' necessary products (4 FLOPs a
frozen weight and token, 6 a trained one) reach.  Random weights cost what trained ones do.
Prints one JSON line for each number of adapters and a table, and writes nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command itself sets it
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from rich.console import Console
from rich.table import Table

from veritune.config import LoraSection, ModelSection, TrainSection
from veritune.model.hardware import choose_placement, cpu_name
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.train.batches import EncodedPair, make_layout
from veritune.train.flops import WeightCounts, count_weights
from veritune.train.joint import JointTrainers
from veritune.train.trainers import Configuration

NUMBERS = (1, 4, 16, 64)
BATCH_SIZE = 8
_FEWEST_STEPS_ALONE = 4
LORA = LoraSection(r=8, alpha=16, dropout=0.05, target_modules="attention")
# hidden, intermediate, layers, heads, key/value heads, vocabulary
SHAPES = {
    "small": (128, 352, 2, 4, 2, 2048),
    "llama-135m": (576, 1536, 30, 9, 3, 49152),
    "llama-500m": (1024, 2816, 24, 16, 4, 49152),
}


@dataclass
class Bench:
    """One base model and the pairs that all adapters train on."""

    name: str
    base: Any
    pairs: list[EncodedPair]
    device: torch.device
    weights: WeightCounts

    def step_seconds(self, together: int, steps: int) -> tuple[float, int]:
        """(seconds for ``steps`` steps of so many adapters, real tokens in them)."""
        layout = make_layout("causal", "packed", self.pairs, pad_id=0, decoder_start_id=0)
        trainers = JointTrainers(
            self.base, layout, self.pairs, [], slots=together, device=self.device
        )
        section = TrainSection(
            padding="packed", batch_size=BATCH_SIZE, epochs=100, max_steps=steps + 1, keep="last"
        )
        for slot in range(together):
            own = section.model_copy(update={"learning_rate": 1e-4 * (1 + slot % 8)})
            trainers.start(slot, Configuration(slot, LORA, own, slot))
        trainers.advance(1)  # fuses the layers, captures where that is done
        before = sum(trainers.counts(slot)["real_tokens"] for slot in range(together))
        self._wait()
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        started = clock()
        trainers.advance(steps)
        self._wait()
        seconds = clock() - started
        after = sum(trainers.counts(slot)["real_tokens"] for slot in range(together))
        for slot in range(together):
            trainers.stop(slot)
        trainers.close()
        return seconds, after - before

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", choices=[*SHAPES, "bundled"], default="small")
    arguments.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    arguments.add_argument("--adapters", type=int, nargs="+", default=list(NUMBERS))
    arguments.add_argument("--steps", type=int, default=2, help="optimizer steps per turn")
    arguments.add_argument("--rounds", type=int, default=3, help="turns of each")
    arguments.add_argument("--tokens", type=int, default=64, help="of the longest pair")
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    bench = open_bench(chosen)
    device = describe(bench.device)
    peak = products_per_second(bench.device, next(bench.base.parameters()).dtype)
    table = Table(title=f"ms per step of one adapter, {bench.name}, {device}")
    for column in ("adapters", "together", "one by one", "times cheaper", "of the floor"):
        table.add_column(column, justify="right")
    for number, ours, peer, rate in measured(bench, chosen):
        line = {
            "work": f"sweep/{bench.name}/{number}-adapters",
            "ours": round(1000 * ours, 3),
            "peer": round(1000 * peer, 3),
            "peer_name": "the same adapters one by one",
            "unit": "ms per adapter and step"
            + ("" if bench.device.type == "cuda" else ", processor time"),
            "ratio": round(peer / ours, 3),
            "floor_fraction": round(rate * bench.weights.model_flops(1, 0) / peak, 4),
            "device": device,
        }
        print(json.dumps(line), flush=True)
        share = f"{100 * line['floor_fraction']:.0f} %"
        table.add_row(
            str(number), f"{1000 * ours:.1f}", f"{1000 * peer:.1f}", f"{peer / ours:.2f}", share
        )
    Console().print(table)


def measured(bench: Bench, chosen: argparse.Namespace) -> Iterator[tuple[int, float, float, float]]:
    """(adapters, our seconds a step, the peer's, our tokens a second), fewest first."""
    for number in chosen.adapters:
        ours, peer, rates = [], [], []
        for _ in range(chosen.rounds):
            seconds, tokens = bench.step_seconds(number, chosen.steps)
            ours.append(seconds / (chosen.steps * number))
            rates.append(tokens / seconds)
            alone = max(chosen.steps, _FEWEST_STEPS_ALONE)
            seconds, _ = bench.step_seconds(1, alone)
            peer.append(seconds / alone)
        yield number, statistics.median(ours), statistics.median(peer), statistics.median(rates)


def open_bench(chosen: argparse.Namespace) -> Bench:
    """The base in the precision that training would choose, and seeded pairs for it."""
    placement = choose_placement(ModelSection(device=chosen.device))
    if chosen.model == "bundled":
        base = load_model(ModelSection(device=chosen.device), placement).model
    else:
        base = random_llama(SHAPES[chosen.model]).to(placement.device, placement.dtype)
    base = base.requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(base.config.vocab_size)
    pairs = []
    for index in range(64):
        low = chosen.tokens // 3
        total = int(torch.randint(low, chosen.tokens + 1, (1,), generator=generator))
        source = max(1, total // 4)
        ids = torch.randint(5, vocabulary, (max(2, total),), generator=generator).tolist()
        pairs.append(EncodedPair(str(index), tuple(ids[:source]), tuple(ids[source:])))
    adapted = attach_lora(base, LORA, seed=0)
    weights = count_weights(adapted)
    return Bench(chosen.model, adapted.unload(), pairs, placement.device, weights)


def random_llama(shape: tuple[int, int, int, int, int, int]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, inner, layers, heads, shared, vocabulary = shape
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=shared,
            tie_word_embeddings=True,
        )
    )


def products_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a plain matrix product in the precision of the frozen weights."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for _ in range(20):
        started = clock()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / max(1e-9, clock() - started))
    return best


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
