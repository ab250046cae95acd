"""How training grows: step time against tokens, adapters and model size; start-up; memory.

    python benchmarks/growth.py --steps 2

Small random decoder models on the device at hand.  Prints a JSON line a point (``axis``,
``value``, ``seconds`` a step, ``tokens`` a step, ``foretold_bytes``, ``startup_seconds``) and a
table, and writes nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from rich.console import Console
from rich.table import Table

from veritune.config import LoraSection, TrainSection
from veritune.train.batches import EncodedPair, make_layout
from veritune.train.joint import JointTrainers
from veritune.train.memory import estimator
from veritune.train.trainers import Configuration

LORA = LoraSection(r=4, dropout=0.01)
USUAL = {"tokens": 128, "adapters": 1, "hidden": 128}
AXES = {"tokens": (64, 128, 256, 512), "adapters": (1, 2, 4, 8), "hidden": (64, 128, 256)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=2, help="timed steps a point")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(chosen.device)
    table = Table(title=f"growth on {device}")
    for column in ("axis", "value", "seconds/step", "tokens/step", "MiB foretold", "start-up s"):
        table.add_column(column)
    for axis, values in AXES.items():
        for value in values:
            found = point({**USUAL, axis: value}, chosen.steps, device)
            print(json.dumps({"axis": axis, "value": value, **found}), flush=True)
            table.add_row(
                axis, str(value), f"{found['seconds']:.3f}", str(found["tokens"]),
                f"{found['foretold_bytes'] / 2**20:.0f}", f"{found['startup_seconds']:.2f}",
            )  # fmt: skip
    Console().print(table)


def point(sizes: dict[str, int], steps: int, device: torch.device) -> dict[str, Any]:
    """Measure one size: a row of ``tokens`` tokens an adapter."""
    each = 32
    pairs = [
        EncodedPair(str(i), (5,) * 8, (6,) * (each - 8)) for i in range(sizes["tokens"] // each)
    ]
    layout = make_layout("causal", "packed", pairs, pad_id=0, decoder_start_id=0)
    section = TrainSection(
        padding="packed", batch_size=len(pairs), max_steps=steps + 1, epochs=10**6, keep="last"
    )
    started = time.perf_counter()
    trainers = JointTrainers(
        model_of(sizes["hidden"]).to(device), layout, pairs, [],
        slots=sizes["adapters"], device=device,
    )  # fmt: skip
    for slot in range(sizes["adapters"]):
        trainers.start(slot, Configuration(slot, LORA, section, slot))
    trainers.advance(1)
    startup, started = time.perf_counter() - started, time.perf_counter()
    trainers.advance(steps)
    seconds = (time.perf_counter() - started) / steps
    trainers.close()
    foretold = estimator(
        trainers._peft, layout, pairs * sizes["adapters"], dtype=torch.float32,
        captured=device.type == "cuda",
    ).need(len(pairs) * sizes["adapters"], recomputes=False)  # fmt: skip
    return {
        "seconds": round(seconds, 4),
        "tokens": sizes["tokens"] * sizes["adapters"],
        "foretold_bytes": foretold.total,
        "startup_seconds": round(startup, 3),
    }


def model_of(hidden: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).requires_grad_(False)


if __name__ == "__main__":
    main()
