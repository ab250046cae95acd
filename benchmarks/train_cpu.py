"""Training speed on this CPU: Veritune's loop against the HF Trainer with PEFT, one run.

Both train the same LoRA (r=4, alpha 32, dropout 0.01 on q, k, v, o) on the same question
and answer pairs in the same batches of 8, on the bundled SmolLM2-135M-Instruct; the two
take turns, so a machine whose speed drifts slows both.  ``ours`` and ``peer`` are real
(unpadded) tokens per second; ``ratio`` is how many times faster.

    python benchmarks/train_cpu.py --steps 3 --rounds 2

Prints one JSON line per comparison and a table, and writes nothing else.
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
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command itself sets it

import torch
from rich.console import Console
from rich.table import Table

from veritune.config import LoraSection, ModelSection, Recipe, TrainSection
from veritune.data.sources import read_rows
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import choose_placement, cpu_name
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.pipeline.encode import make_encoder
from veritune.progress import Silent
from veritune.rows import Example
from veritune.train.batches import EncodedPair, epoch_batches, make_layout
from veritune.train.flops import count_weights
from veritune.train.loop import Training

BATCH_SIZE = 8
MAX_PAIR_TOKENS = 320
LORA = LoraSection(r=4, alpha=32, dropout=0.01, target_modules="attention")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=3, help="optimizer steps per turn")
    arguments.add_argument("--rounds", type=int, default=2, help="turns of each")
    arguments.add_argument("--data", type=Path, help="JSONL with instruction and output")
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    pairs = encoded_pairs(chosen.data, chosen.steps * BATCH_SIZE)
    peers = {
        "HF Trainer + PEFT, fp32": torch.float32,
        "HF Trainer + PEFT, bf16 weights": torch.bfloat16,
    }
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(chosen.rounds):
        ours.append(veritune_rate(pairs, chosen.steps))
        for name, dtype in peers.items():
            theirs[name].append(trainer_rate(pairs, chosen.steps, dtype))
    table = Table(title=f"real tokens per second, {cpu_name()}, {torch.get_num_threads()} threads")
    for column in ("work", "peer", "Veritune", "peer's", "times faster"):
        table.add_column(column)
    for name, rates in theirs.items():
        mine, peer = statistics.median(ours), statistics.median(rates)
        line = {
            "work": "train/smollm2-135m",
            "ours": round(mine, 1),
            "peer": round(peer, 1),
            "peer_name": name,
            "unit": "tokens/s",
            "ratio": round(mine / peer, 2),
            "floor_fraction": None,
            "device": f"{cpu_name()}, {torch.get_num_threads()} threads",
        }
        print(json.dumps(line), flush=True)
        table.add_row(
            "train/smollm2-135m", name, f"{mine:.0f}", f"{peer:.0f}", f"{mine / peer:.2f}"
        )
    Console().print(table)


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


def veritune_rate(pairs: list[EncodedPair], steps: int) -> float:
    """Real tokens per second of Veritune's loop with its defaults for this machine."""
    section = ModelSection()
    placement = choose_placement(section)
    loaded = load_model(section, placement)
    model = attach_lora(loaded.model, LORA, seed=0)
    use_packed_attention(model, MAX_PAIR_TOKENS)
    layout = make_layout("causal", "packed", pairs, pad_id=0, decoder_start_id=0)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            model=model,
            layout=layout,
            section=TrainSection(
                padding="packed", batch_size=BATCH_SIZE, max_steps=steps, keep="last"
            ),
            train=pairs,
            validation=[],
            seed=0,
            device=placement.device,
            folder=Path(folder) / "checkpoints",
            log_path=Path(folder) / "log.jsonl",
            inputs_sha256="",
            weights=count_weights(model),
            reporter=Silent(),
        )
        return float(training.run()["train_tokens_per_second"])


def trainer_rate(pairs: list[EncodedPair], steps: int, dtype: torch.dtype) -> float:
    """Real tokens per second of the HF Trainer on a PEFT model, padded to the longest."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    loaded = load_model(ModelSection(dtype=str(dtype).removeprefix("torch.")), _placed(dtype))  # type: ignore[arg-type]
    model = attach_lora(loaded.model, LORA, seed=0)
    batches = epoch_batches(pairs, BATCH_SIZE, seed=0, epoch=0)
    order = [pair for batch in batches for pair in batch]
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
            ),
            train_dataset=[_row(pair) for pair in order],
            data_collator=DataCollatorForSeq2Seq(loaded.tokenizer, padding=True),
        )
        with contextlib.redirect_stdout(quiet):
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
    return sum(pair.n_tokens for pair in order[: steps * BATCH_SIZE]) / seconds


def _placed(dtype: torch.dtype) -> Any:
    from veritune.model.hardware import Placement

    return Placement(torch.device("cpu"), dtype)


def _row(pair: EncodedPair) -> dict[str, list[int]]:
    ids = [*pair.source_ids, *pair.target_ids]
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [-100] * len(pair.source_ids) + list(pair.target_ids),
    }


if __name__ == "__main__":
    main()
