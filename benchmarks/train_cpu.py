"""Training speed on this CPU: Veritune's loop against what people use now, in one run.

Three comparisons, each of the same LoRA on the same pairs in the same batches of 8; the two
sides take turns, so a machine whose speed drifts slows both:

train/codet5-original   the original recipe (r=4 on q, k, v, o; CodeT5-base's shape, random
                        weights) against the HF Trainer with PEFT in fp32, padded to the longest
                        of the training set, as the original ran
train/smollm2-135m      the bundled SmolLM2 against the HF Trainer with PEFT and its defaults
joint/8-adapters        eight adapters of it in one row against the same eight one by one; a
                        sweep is arithmetic-bound on a CPU, so 1 is all there is to reach

    python benchmarks/train_cpu.py --steps 3 --rounds 2

``ours`` and ``peer`` are real (unpadded) tokens per second; ``ratio`` is how many times
faster; ``floor_fraction`` is the share of this CPU's measured rate of matrix products that
the step's necessary products (4 FLOPs a weight and token) reach.  Prints one JSON line per
comparison and a table, and writes nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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

from original_shape import ORIGINAL_LENGTHS, codet5_shape, random_ids
from veritune.config import LoraSection, ModelSection, Recipe, TrainSection
from veritune.data.sources import read_rows
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import Placement, choose_placement, cpu_name
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.pipeline.encode import make_encoder
from veritune.progress import Silent
from veritune.rows import Example
from veritune.train.batches import EncodedPair, Layout, epoch_batches, make_layout
from veritune.train.flops import count_weights
from veritune.train.joint import JointTrainers
from veritune.train.loop import Training
from veritune.train.trainers import Configuration

BATCH_SIZE = 8
MAX_PAIR_TOKENS = 320
N_ADAPTERS = 8
LORA = LoraSection(r=4, alpha=32, dropout=0.01, target_modules="attention")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """One model with its pairs.

    Attributes:
        fixed: (source, target) tokens that the peer pads to, or None for its own default.
    """

    name: str
    load: Callable[[torch.dtype], Any]
    pairs: list[EncodedPair]
    kind: Any
    pad_id: int
    fixed: tuple[int, int] | None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=3, help="optimizer steps per turn")
    arguments.add_argument("--rounds", type=int, default=2, help="turns of each")
    arguments.add_argument("--data", type=Path, help="JSONL with instruction and output")
    arguments.add_argument("--only", help="run the works whose name contains this")
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    peak = products_per_second()
    table = Table(title=f"real tokens per second, {cpu_name()}, {torch.get_num_threads()} threads")
    for column in ("work", "peer", "Veritune", "peer's", "times faster", "of the floor"):
        table.add_column(column)
    for name, peer_name, ours, peer, flops in measured(chosen):
        line = {
            "work": name,
            "ours": round(ours, 1),
            "peer": round(peer, 1),
            "peer_name": peer_name,
            "unit": "tokens/s",
            "ratio": round(ours / peer, 2),
            "floor_fraction": round(ours * flops / peak, 3),
            "device": f"{cpu_name()}, {torch.get_num_threads()} threads",
        }
        print(json.dumps(line), flush=True)
        share = f"{100 * line['floor_fraction']:.0f} %"
        table.add_row(name, peer_name, f"{ours:.0f}", f"{peer:.0f}", f"{ours / peer:.2f}", share)
    Console().print(table)


def measured(chosen: argparse.Namespace) -> Iterator[tuple[str, str, float, float, float]]:
    """(work, peer, our rate, the peer's, FLOPs a token) of everything asked for."""
    for make in (codet5_original, smollm2):
        if chosen.only and chosen.only not in make.__doc__.split()[0]:
            continue
        work = make(chosen)
        peers = {"HF Trainer + PEFT, fp32": torch.float32}
        if work.fixed is None:
            peers["HF Trainer + PEFT, bf16 weights"] = torch.bfloat16
        ours: list[float] = []
        theirs: dict[str, list[float]] = {name: [] for name in peers}
        flops = 0.0
        for _ in range(chosen.rounds):
            rate, flops = veritune_rate(work, chosen.steps)
            ours.append(rate)
            for name, dtype in peers.items():
                theirs[name].append(trainer_rate(work, chosen.steps, dtype))
        for name, rates in theirs.items():
            yield work.name, name, statistics.median(ours), statistics.median(rates), flops
    if not chosen.only or chosen.only in "joint/8-adapters":
        work = smollm2(chosen)
        together, apart = [], []
        for _ in range(chosen.rounds):
            together.append(joint_rate(work, 1, N_ADAPTERS))
            apart.append(joint_rate(work, 1, 1))
        _, flops = veritune_rate(work, 1)
        peer = f"{N_ADAPTERS} separate runs of Veritune"
        yield "joint/8-adapters", peer, statistics.median(together), statistics.median(apart), flops


def codet5_original(_: argparse.Namespace) -> Work:
    """train/codet5-original"""
    generator = torch.Generator().manual_seed(0)
    pairs = [
        EncodedPair(str(index), *(random_ids(n, generator) for n in lengths))
        for index, lengths in enumerate(ORIGINAL_LENGTHS)
    ]
    longest = max(s for s, _ in ORIGINAL_LENGTHS), max(t for _, t in ORIGINAL_LENGTHS)
    return Work("train/codet5-original", codet5_shape, pairs, "seq2seq", 0, longest)


def smollm2(chosen: argparse.Namespace) -> Work:
    """train/smollm2-135m"""

    def load(dtype: torch.dtype) -> Any:
        section = ModelSection(dtype=str(dtype).removeprefix("torch."))  # type: ignore[arg-type]
        return load_model(section, Placement(CPU, dtype)).model

    pairs = encoded_pairs(chosen.data, chosen.steps * BATCH_SIZE)
    return Work("train/smollm2-135m", load, pairs, "causal", 2, None)


def encoded_pairs(data: Path | None, count: int) -> list[EncodedPair]:
    """The pairs both train on: a JSONL file's, or functions of the standard library."""
    recipe = Recipe(model=ModelSection())
    if data is None:
        rows = [(row.instruction, row.output) for row in read_rows(Recipe().data).rows]
    else:
        lines = data.read_text(encoding="utf-8").splitlines()
        rows = [(row["instruction"], row["output"]) for row in map(json.loads, lines)]
    examples = [
        Example(str(index), str(index), "train", question, "", answer)
        for index, (question, answer) in enumerate(rows[: count * 8])
    ]
    encoded = make_encoder(recipe).pairs(examples)
    return [pair for pair in encoded if pair.n_tokens <= MAX_PAIR_TOKENS][:count]


def veritune_rate(work: Work, steps: int) -> tuple[float, float]:
    """(real tokens per second, FLOPs a token) of our loop with its defaults for this machine."""
    dtype = choose_placement(ModelSection(device="cpu")).dtype
    model = attach_lora(work.load(dtype), LORA, seed=0)
    use_packed_attention(model, max(pair.n_tokens for pair in work.pairs))
    weights = count_weights(model)
    with tempfile.TemporaryDirectory() as folder:
        summary = Training(
            model=model,
            layout=_packed(work),
            section=_section(steps),
            train=work.pairs,
            validation=[],
            seed=0,
            device=CPU,
            folder=Path(folder) / "checkpoints",
            log_path=Path(folder) / "log.jsonl",
            inputs_sha256="",
            weights=weights,
            reporter=Silent(),
        ).run()
    return summary["real_tokens"] / summary["step_seconds"], (
        summary["model_flops"] / summary["real_tokens"] * 4 / 6
    )


def joint_rate(work: Work, steps: int, together: int) -> float:
    """Real tokens of eight adapters per second, so many of them in one row."""
    dtype = choose_placement(ModelSection(device="cpu")).dtype
    trainers = JointTrainers(
        work.load(dtype), _packed(work), work.pairs, [], slots=together, device=CPU
    )
    tokens, seconds = 0, 0.0
    for first in range(0, N_ADAPTERS, together):
        for slot in range(together):
            configuration = Configuration(first + slot, LORA, _section(steps), first + slot)
            trainers.start(slot, configuration)
        started = time.perf_counter()
        trainers.advance(steps)
        seconds += time.perf_counter() - started
        tokens += sum(trainers.counts(slot)["real_tokens"] for slot in range(together))
        for slot in range(together):
            trainers.stop(slot)
    return tokens / seconds


def trainer_rate(work: Work, steps: int, dtype: torch.dtype) -> float:
    """Real tokens per second of the HF Trainer on a PEFT model."""
    from transformers import Trainer, TrainingArguments

    model = attach_lora(work.load(dtype), LORA, seed=0)
    order = [p for b in epoch_batches(work.pairs, BATCH_SIZE, seed=0, epoch=0) for p in b]
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as quiet:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH_SIZE,
                max_steps=steps,
                learning_rate=5e-4,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                remove_unused_columns=False,
            ),
            train_dataset=order,
            data_collator=lambda pairs: _padded(work, pairs),
        )
        with contextlib.redirect_stdout(quiet):
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
    return sum(pair.n_tokens for pair in order[: steps * BATCH_SIZE]) / seconds


def products_per_second() -> float:
    """FLOP/s of a plain matrix product in the precision that training would choose."""
    dtype = choose_placement(ModelSection(device="cpu")).dtype
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    best = 0.0
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        best = max(best, 2 * 1024**3 / (time.perf_counter() - started))
    return best


def _section(steps: int) -> TrainSection:
    return TrainSection(
        padding="packed", batch_size=BATCH_SIZE, max_steps=steps, epochs=100, keep="last"
    )


def _packed(work: Work) -> Layout:
    layout = make_layout(work.kind, "packed", work.pairs, pad_id=work.pad_id, decoder_start_id=0)
    return replace(layout, shares_prefix=True)


def _padded(work: Work, pairs: list[EncodedPair]) -> dict[str, torch.Tensor]:
    """A batch as transformers' collators make it: labels unshifted, -100 where padded."""
    if work.kind == "seq2seq":
        source, target = work.fixed or (0, 0)
        ids = [_fill(pair.source_ids, source, work.pad_id) for pair in pairs]
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(
                [_fill([1] * len(p.source_ids), source, 0) for p in pairs]
            ),
            "labels": torch.tensor([_fill(pair.target_ids, target, -100) for pair in pairs]),
        }
    longest = max(pair.n_tokens for pair in pairs)
    return {
        "input_ids": torch.tensor(
            [_fill([*p.source_ids, *p.target_ids], longest, work.pad_id) for p in pairs]
        ),
        "attention_mask": torch.tensor([_fill([1] * p.n_tokens, longest, 0) for p in pairs]),
        "labels": torch.tensor(
            [_fill([-100] * len(p.source_ids) + [*p.target_ids], longest, -100) for p in pairs]
        ),
    }


def _fill(values: Any, length: int, filler: int) -> list[int]:
    return [*values, *[filler] * (length - len(values))]


if __name__ == "__main__":
    main()
