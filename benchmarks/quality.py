"""Is what Veritune trains as good as what the HF Trainer with PEFT trains?  Same rows, same recipe.

Both adapt the bundled SmolLM2 (bf16 weights where the processor has it) with the same LoRA,
rate, schedule and number of epochs, with several seeds each; order, dropout and initial
weights differ by seed.  Judged by the loss on held-out rows, measured by one padded forward
pass without any of our layers.  The difference of the means must lie within the spread of the
reference's own seeds.  JSON lines go to stdout, a table to stderr; exit code 1 if it does not.

    python benchmarks/quality.py --data rows.jsonl --epochs 2 --seeds 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from rich.console import Console
from rich.table import Table

from veritune.config import LoraSection, ModelSection, Recipe, TrainSection
from veritune.data.prepare import prepare
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import choose_placement, cpu_name
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.pipeline.encode import make_encoder
from veritune.progress import Silent
from veritune.train.batches import EncodedPair, Layout, in_order, make_layout
from veritune.train.flops import count_weights
from veritune.train.loop import Training
from veritune.train.loss import mean_loss

BATCH_SIZE = 8
LORA = LoraSection(r=16, alpha=32, dropout=0.05, target_modules="attention")
RATE, WARMUP_STEPS = 5e-4, 5
SETTINGS = ModelSection()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", default="code:stdlib", help="as data.source in a recipe")
    arguments.add_argument("--max-rows", type=int, default=300)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--seeds", type=int, default=3)
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    train, held_out, layout = encoded(chosen.data, chosen.max_rows)
    losses: dict[str, list[float]] = {"Veritune": [], "HF Trainer + PEFT": []}
    for seed in range(chosen.seeds):
        for name, learn in (("Veritune", by_veritune), ("HF Trainer + PEFT", by_trainer)):
            started = time.perf_counter()
            loss = held_out_loss(learn(train, layout, chosen.epochs, seed), held_out, layout)
            losses[name].append(loss)
            seconds = round(time.perf_counter() - started, 1)
            line = {"system": name, "seed": seed, "held_out_loss": loss, "seconds": seconds}
            print(json.dumps(line), flush=True)
    sys.exit(0 if judge(losses, len(train), len(held_out)) else 1)


def encoded(source: str, max_rows: int) -> tuple[list[EncodedPair], list[EncodedPair], Layout]:
    """(training pairs, held-out pairs, padded layout), divided by whole duplicate groups."""
    section = Recipe.model_validate(
        {
            "data": {
                "source": source,
                "max_rows": max_rows,
                "max_pair_tokens": 512,
                "split": {"validation": 0.2, "test": 1},
            }
        }
    ).data
    encoder = make_encoder(Recipe())
    rows = prepare(section, 0, encoder.counter(Silent())).examples
    parts = [encoder.pairs([r for r in rows if r.split == s]) for s in ("train", "validation")]
    pad = int(encoder.format.tokenizer.pad_token_id)
    layout = make_layout(
        encoder.kind, "longest_in_batch", parts[0], pad_id=pad, decoder_start_id=pad
    )
    return parts[0], parts[1], layout


def base_model() -> Any:
    return load_model(SETTINGS, choose_placement(SETTINGS)).model


def by_veritune(train: list[EncodedPair], layout: Layout, epochs: int, seed: int) -> Any:
    """An adapter by our loop: packed rows, fused layers, counted dropout."""
    model = attach_lora(base_model(), LORA, seed=seed)
    use_packed_attention(model, max(pair.n_tokens for pair in train))
    with tempfile.TemporaryDirectory() as folder:
        Training(
            model=model,
            layout=Layout(
                layout.kind, layout.pad_id, layout.decoder_start_id, "packed", shares_prefix=True
            ),
            section=TrainSection(
                learning_rate=RATE,
                batch_size=BATCH_SIZE,
                epochs=epochs,
                warmup_steps=WARMUP_STEPS,
                padding="packed",
                keep="last",
            ),
            train=train,
            validation=[],
            seed=seed,
            device=torch.device("cpu"),
            folder=Path(folder) / "checkpoints",
            log_path=Path(folder) / "log.jsonl",
            inputs_sha256="",
            weights=count_weights(model),
            reporter=Silent(),
        ).run()
    return model


def by_trainer(train: list[EncodedPair], layout: Layout, epochs: int, seed: int) -> Any:
    """An adapter by transformers' Trainer on padded batches, with PEFT's own layers."""
    from transformers import Trainer, TrainingArguments

    model = attach_lora(base_model(), LORA, seed=seed)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as quiet:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH_SIZE,
                num_train_epochs=epochs,
                learning_rate=RATE,
                lr_scheduler_type="linear",
                warmup_steps=WARMUP_STEPS,
                max_grad_norm=1.0,
                weight_decay=0.0,
                seed=seed,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                remove_unused_columns=False,
            ),
            train_dataset=train,
            data_collator=lambda pairs: unshifted(layout, pairs),
        )
        with contextlib.redirect_stdout(quiet):
            trainer.train()
    return model


def unshifted(layout: Layout, pairs: list[EncodedPair]) -> dict[str, torch.Tensor]:
    """A batch as transformers' collators make it: labels at their own positions."""
    batch = layout.batch(pairs)
    labels = torch.full_like(batch.labels, -100)
    labels[:, 1:] = batch.labels[:, :-1]
    return {**batch.inputs, "labels": labels}


def held_out_loss(model: Any, held_out: list[EncodedPair], layout: Layout) -> float:
    """Nats per supervised token, by a model of its own that only takes over the adapter."""
    fresh = attach_lora(base_model(), LORA, seed=0)
    adapter = {n: p for n, p in model.state_dict().items() if "lora_" in n}
    fresh.load_state_dict(adapter, strict=False)
    batches = [layout.batch(pairs) for pairs in in_order(held_out, BATCH_SIZE)]
    return mean_loss(fresh, batches, torch.device("cpu"))


def judge(losses: dict[str, list[float]], n_train: int, n_held_out: int) -> bool:
    ours, reference = losses["Veritune"], losses["HF Trainer + PEFT"]
    difference = statistics.mean(ours) - statistics.mean(reference)
    spread = max(reference) - min(reference)
    holds = difference <= spread
    print(
        json.dumps(
            {
                "work": "quality/smollm2-135m",
                "difference": difference,
                "spread_of_reference": spread,
                "holds": holds,
                "n_train": n_train,
                "n_held_out": n_held_out,
                "device": cpu_name(),
            }
        ),
        flush=True,
    )
    table = Table(title=f"loss on {n_held_out} held-out rows after training on {n_train}")
    for column in ("", "mean", "lowest", "highest"):
        table.add_column(column)
    for name, values in losses.items():
        numbers = (statistics.mean(values), min(values), max(values))
        table.add_row(name, *(f"{number:.4f}" for number in numbers))
    Console(stderr=True).print(table)
    return holds


if __name__ == "__main__":
    main()
