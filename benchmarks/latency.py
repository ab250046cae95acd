"""Time per new token of the base, with the adapter attached, and merged, in one run.

LoRA's claim is that a merged adapter costs nothing at inference.  Each round every model goes
on from the same prompt, alone, for the same number of tokens; who goes first changes from
round to round, so a machine that slows down favours none.  Ratios are of sums over rounds,
with an interval that resamples whole rounds.

    python benchmarks/latency.py                      # the bundled model, r=16, all-linear
    python benchmarks/latency.py --run runs/mine      # a trained run's own adapter
    python benchmarks/latency.py --tiny --rounds 5    # a random model, to try the script

``ms`` is milliseconds per new token, the prompt's share included; ``ratio`` is that of the
base with its 95 % interval.  ``merged`` passes if its interval contains 1: no difference that
this many rounds can show (``detectable`` is the smallest that they could).  Prints one JSON
line per model and a table, and writes nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command itself sets it
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from veritune.compare.claims import ratio_interval
from veritune.config import LoraSection, ModelSection, Recipe
from veritune.generate.latency import latency_rounds
from veritune.model.hardware import choose_placement, cpu_name
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.model.merged import merged_model, own_memory, share_weights
from veritune.model.prompt import PromptFormat, prompt_format
from veritune.pipeline.trained import open_trained
from veritune.run_dir import open_run

QUESTIONS = [
    "Write a function that returns the largest of a list of numbers.",
    "Read a file and count how often each word occurs.",
    "Write a class Stack with push and pop.",
    "Print the first ten square numbers.",
]
RESAMPLES = 10_000


class _Question:
    def __init__(self, instruction: str) -> None:
        self.instruction, self.input = instruction, ""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--run", type=Path, help="a trained run; default: a fresh adapter")
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--new-tokens", type=int, default=24)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--r", type=int, default=16, help="of the fresh adapter")
    arguments.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    arguments.add_argument(
        "--cpu-time", action="store_true", help="count processor time, on a machine that is shared"
    )
    arguments.add_argument("--tiny", action="store_true", help="a random two-layer model")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)

    models, wording, description = _models(chosen)
    rounds = latency_rounds(
        models,
        wording,
        [wording.prompt(_Question(text)) for text in QUESTIONS],
        rounds=chosen.rounds,
        new_tokens=chosen.new_tokens,
        clock=time.process_time if chosen.cpu_time else time.perf_counter,
    )
    rows = [_row(name, rounds) for name in models]
    table = Table(title=f"{description}, {chosen.threads} threads, {cpu_name()}")
    for name in ("model", "ms/token", "95 % interval", "ratio to base", "95 % interval", "verdict"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        print(json.dumps({"benchmark": "latency", "what": description, **row}))
        table.add_row(
            row["model"],
            f"{row['ms']:.2f}",
            f"{row['ms_low']:.2f} … {row['ms_high']:.2f}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_low']:.3f} … {row['ratio_high']:.3f}",
            row["verdict"],
        )
    Console(stderr=True).print(table)


def _models(chosen: argparse.Namespace) -> tuple[dict[str, Any], PromptFormat, str]:
    """Base, attached and merged over the same weights."""
    if chosen.run is not None:
        run = open_run(chosen.run)
        recipe = run.recipe()
        trained = open_trained(run, recipe, choose_placement(recipe.model))
        own_memory(trained.plain)
        plain, adapted, wording = trained.plain, trained.adapted, trained.encoder.format
        what = f"{trained.loaded.description}, the run's adapter (r={recipe.lora.r})"
    elif chosen.tiny:
        return _tiny()
    else:
        section = ModelSection(dtype=chosen.dtype)
        loaded = load_model(section, choose_placement(section))
        own_memory(loaded.model)
        plain = share_weights(loaded.model)
        adapted = _moved(loaded.model, chosen.r)
        wording = prompt_format(section, loaded.tokenizer, loaded.kind, join_input=True)
        what = f"{loaded.description}, r={chosen.r} on all linear layers"
    dtype = str(next(plain.parameters()).dtype).removeprefix("torch.")
    models = {"base": plain, "attached": adapted, "merged": merged_model(plain, adapted)}
    return models, wording, f"{what}, {dtype}"


def _moved(model: Any, r: int) -> Any:
    """A fresh adapter with weights that are not zero, so that it has work to do."""
    lora = LoraSection(r=r, alpha=2 * r, dropout=0.0, target_modules="all-linear")
    adapted = attach_lora(model, lora, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.01)
    return adapted.eval()


def _tiny() -> tuple[dict[str, Any], PromptFormat, str]:
    import transformers
    from transformers import AutoTokenizer

    from veritune.model.bundled import bundled_folder

    tokenizer = AutoTokenizer.from_pretrained(bundled_folder())
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    plain = share_weights(model)
    adapted = _moved(model, 4)
    wording = prompt_format(Recipe().model, tokenizer, "causal", join_input=True)
    models = {"base": plain, "attached": adapted, "merged": merged_model(plain, adapted)}
    return models, wording, "random Llama of two layers, r=4"


def _row(name: str, rounds: list[dict[str, float]]) -> dict[str, Any]:
    own = np.array([row[name] for row in rounds]) * 1e3
    base = np.array([row["base"] for row in rounds]) * 1e3
    drawn = np.random.default_rng(0).integers(len(rounds), size=(RESAMPLES, len(rounds)))
    means = own[drawn].mean(axis=1)
    low, high = ratio_interval(list(own), list(base), seed=0) if name != "base" else (1.0, 1.0)
    verdict = "the base itself"
    if name != "base":
        verdict = "slower" if low > 1 else "faster" if high < 1 else "no difference"
    return {
        "model": name,
        "n_rounds": len(rounds),
        "ms": float(own.mean()),
        "ms_low": float(np.quantile(means, 0.025)),
        "ms_high": float(np.quantile(means, 0.975)),
        "ratio": float(own.mean() / base.mean()),
        "ratio_low": float(low),
        "ratio_high": float(high),
        "detectable": float(max(high - 1, 1 - low)),
        "verdict": verdict,
    }


if __name__ == "__main__":
    main()
