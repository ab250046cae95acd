"""Speed and exactness of greedy decoding: Veritune's decoder against HF ``generate``, in one run.

The same prompts (questions mined from the standard library, or a JSONL file's), the same loaded
model and threads, a fixed number of new tokens for every row, so that both do the same work.
The two sides take turns, so a machine whose speed drifts slows both.  ``/queue`` is evaluation's
kind of work: more prompts than rows, and answers that end by themselves; HF gets sorted batches.

    python benchmarks/generate.py --rounds 3 --new-tokens 128

``generate/codet5-original`` is the original run's model by its shape, with random weights.

``ours`` and ``peer`` are new tokens per second, reading the prompts included; ``ratio`` is how
many times faster; ``ratio_of_cpu_seconds`` compares the processor time of both sides, which
other programs on the machine disturb less.  ``floor_fraction`` is the least time over ours:
2 FLOPs a weight and token, prompts included, at the machine's measured rate of large products,
or for a step the reading of all weights at its measured rate, where that takes longer.

Further lines say how many tokens are equal: in fp32 to HF's, which is what exact means; in bf16,
where HF's own answers change with the batch too, how many tokens of each side's answers come
before the first that differs from fp32; and CTranslate2's int8, where it is installed, with its
agreement.  Prints one JSON line each and a table, and writes nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
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

from decoding_sides import Answers, ByCTranslate2, by_engine, by_transformers
from original_shape import ORIGINAL_LENGTHS, codet5_shape, random_ids
from veritune.config import LoraSection, ModelSection, Recipe
from veritune.data.sources import read_rows
from veritune.errors import EnvironmentFault
from veritune.generate.engine import BASE
from veritune.model.hardware import Placement, choose_placement, cpu_name
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.pipeline.encode import make_encoder
from veritune.rows import Example

MAX_PROMPT_TOKENS = 120
END = 2  # of a turn
WORK = "generate/smollm2-135m"


def main() -> None:
    chosen = asked()
    warnings.simplefilter("ignore")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    placement = choose_placement(ModelSection(device=chosen.device))
    sizes = [int(size) for size in chosen.batch_sizes.split(",")]
    prompts = encoded_prompts(chosen.data, max(*sizes, chosen.queue))
    table = Table(title=f"new tokens per second, {device_name(placement)}")
    for column in ("work", "peer", "Veritune", "peer's", "times faster", "of the floor"):
        table.add_column(column)
    model = loaded(placement)
    machine = Machine(products_per_second(placement), bytes_per_second(placement))
    dtype = {"bfloat16": "bf16", "float32": "fp32"}[placement.dtype_name]
    answers: list[Answers] = []

    def show(work: str, turns: Turns, peer_name: str, floor: float | None, **more: Any) -> None:
        line = {
            "work": work,
            "ours": round(turns.rates[0], 1),
            "peer": round(turns.rates[1], 1),
            "peer_name": peer_name,
            "unit": "tokens/s",
            "ratio": round(turns.rates[0] / turns.rates[1], 2),
            "floor_fraction": None if floor is None else round(floor / turns.seconds[0], 3),
            "device": device_name(placement),
            "ratio_of_cpu_seconds": round(turns.costs[1] / turns.costs[0], 2),
            **more,
        }
        print(json.dumps(line), flush=True)
        share = "" if floor is None else f"{100 * line['floor_fraction']:.0f} %"
        rates = f"{line['ours']:.0f}", f"{line['peer']:.0f}"
        table.add_row(work, peer_name, *rates, f"{line['ratio']}", share)

    for size in sizes:
        rows = prompts[:size]
        turns = taken(
            lambda n, rows=rows: by_engine(model, rows, n),
            lambda n, rows=rows: by_transformers(model, rows, n),
            chosen.new_tokens,
            chosen.rounds,
        )
        work = WORK if size == 16 else f"{WORK}/batch-{size}"
        equal = {f"equal_tokens_{dtype}": round(equal_share(*turns.answers), 4)}
        floor = machine.least_seconds(model, rows, chosen.new_tokens)
        show(work, turns, f"HF generate, {dtype}, batch {size}", floor, **equal)
        answers = answers or turns.answers
    if not chosen.skip_t5:
        turns = of_the_original(placement, chosen)
        equal = {f"equal_tokens_{dtype}": round(equal_share(*turns.answers), 4)}
        show("generate/codet5-original", turns, f"HF generate, {dtype}, batch 16", None, **equal)
    if chosen.queue:
        queue = prompts[: chosen.queue]
        turns = taken(
            lambda n: by_engine(model, queue, n, slots=16, ends={END}),
            lambda n: by_transformers(model, queue, n, batch=16, ends={END}),
            chosen.new_tokens,
            1,
        )
        name = f"HF generate, {dtype}, sorted batches of 16"
        ended = sum(row[-1] == END for row in turns.answers[0])
        show(f"{WORK}/queue", turns, name, None, prompts=len(queue), ended_by_themselves=ended)
    Console().print(table)
    if not chosen.skip_ct2 and placement.device.type == "cpu":
        print(json.dumps(ct2_line(model, prompts[: sizes[0]], chosen.new_tokens)), flush=True)
    if not chosen.skip_exact:
        del model
        rows = prompts[: sizes[0]]
        print(json.dumps(exactness(placement, rows, chosen.new_tokens, answers)), flush=True)


def asked() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--batch-sizes", default="16,1", help="rows at once, by commas")
    arguments.add_argument("--new-tokens", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=3, help="turns of each")
    arguments.add_argument("--data", type=Path, help="JSONL with instruction")
    arguments.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    arguments.add_argument("--threads", type=int, help="of the CPU; by default torch's own number")
    arguments.add_argument("--queue", type=int, default=48, help="prompts of /queue; 0: none")
    arguments.add_argument("--skip-t5", action="store_true", help="leave the original's model out")
    arguments.add_argument("--skip-ct2", action="store_true", help="leave CTranslate2 out")
    arguments.add_argument("--skip-exact", action="store_true", help="do not compare in fp32")
    return arguments.parse_args()


def of_the_original(placement: Placement, chosen: argparse.Namespace) -> Turns:
    """Both sides with the original's model: CodeT5-base's shape, random weights, its lengths."""
    model = codet5_shape(placement.dtype).to(placement.device).eval()
    generator = torch.Generator().manual_seed(0)
    rows = [list(random_ids(n, generator)) for n, _ in ORIGINAL_LENGTHS[:16]]
    return taken(
        lambda n: by_engine(model, rows, n),
        lambda n: by_transformers(model, rows, n),
        chosen.new_tokens,
        chosen.rounds,
    )


@dataclass(frozen=True)
class Machine:
    """FLOPs and bytes per second that large products and reads reach."""

    products: float
    reads: float

    def least_seconds(self, model: Any, prompts: Answers, new_tokens: int) -> float:
        """Of nothing but the necessary products and reads."""
        weights = sum(p.numel() for p in model.parameters())
        size = next(model.parameters()).element_size()
        inner = weights - model.lm_head.weight.numel()
        reading = 2 * inner * sum(len(prompt) - 1 for prompt in prompts) / self.products
        step = max(2 * weights * len(prompts) / self.products, weights * size / self.reads)
        return reading + new_tokens * step


@dataclass(frozen=True)
class Turns:
    """Medians of our side and the peer's, and their last answers."""

    rates: list[float]
    seconds: list[float]
    costs: list[float]
    answers: list[Answers]


def taken(
    ours: Callable[[int], Answers], peer: Callable[[int], Answers], new_tokens: int, rounds: int
) -> Turns:
    """Both sides in turn; a first, short turn is not counted."""
    sides = [ours, peer]
    for side in sides:
        side(4)
    seconds: list[list[float]] = [[], []]
    costs: list[list[float]] = [[], []]
    answers: list[Answers] = [[], []]
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            started, worked = time.perf_counter(), time.process_time()
            answers[which] = sides[which](new_tokens)
            seconds[which].append(time.perf_counter() - started)
            costs[which].append(time.process_time() - worked)
    middle = [statistics.median(side) for side in seconds]
    rates = [sum(map(len, rows)) / s for rows, s in zip(answers, middle, strict=True)]
    return Turns(rates, middle, [statistics.median(side) for side in costs], answers)


def exactness(
    placement: Placement, prompts: Answers, new_tokens: int, narrow: list[Answers]
) -> dict[str, Any]:
    """Base and adapted rows together in fp32, against HF with the adapter off and on.

    Args:
        narrow: our answers and the peer's in the precision that was timed, of the base.
    """
    model = loaded(Placement(placement.device, torch.float32))
    model = attach_lora(model, LoraSection(r=4, target_modules="attention"), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                noise = torch.randn(parameter.shape, generator=generator) * 0.02
                parameter.add_(noise.to(parameter.device))
    half = len(prompts) // 2
    systems = [BASE] * half + ["default"] * (len(prompts) - half)
    ours = by_engine(model, prompts, new_tokens, systems=systems)
    with model.disable_adapter():
        base = by_transformers(model, prompts, new_tokens)
    peer = base[:half] + by_transformers(model, prompts[half:], new_tokens)
    until = [
        sum(same_until(row, truth) for row, truth in zip(rows, base, strict=True)) / len(base)
        for rows in narrow
    ]
    return {
        "exact": WORK,
        "peer_name": "HF generate, fp32, adapter off for half the rows",
        "rows": len(prompts),
        "equal_rows": sum(a == b for a, b in zip(ours, peer, strict=True)),
        "equal_tokens": round(equal_share(ours, peer), 6),
        "tokens_until_they_leave_fp32": dict(
            zip(("ours", "peer"), (round(n, 1) for n in until), strict=True)
        ),
        "device": device_name(placement),
    }


def ct2_line(model: Any, prompts: Answers, new_tokens: int) -> dict[str, Any]:
    """CTranslate2's int8 against our decoder, or why it is left out."""
    name = f"{WORK}/ctranslate2-int8"
    loaded_model = load_model(ModelSection(), Placement(torch.device("cpu"), torch.bfloat16))
    try:
        # The folder that the bundled model is loaded from.
        folder = Path(loaded_model.model.name_or_path)
        peer = ByCTranslate2(folder, loaded_model.tokenizer, torch.get_num_threads())
    except EnvironmentFault as error:
        return {"work": name, "left_out": str(error)}
    turns = taken(lambda n: by_engine(model, prompts, n), lambda n: peer(prompts, n), new_tokens, 1)
    ours, theirs = turns.answers
    return {
        "work": name,
        "ours": round(turns.rates[0], 1),
        "peer": round(turns.rates[1], 1),
        "peer_name": f"CTranslate2, int8, batch {len(prompts)}",
        "unit": "tokens/s",
        "ratio": round(turns.rates[0] / turns.rates[1], 2),
        "rows_as_ours": sum(a == b for a, b in zip(ours, theirs, strict=True)),
        "equal_tokens": round(equal_share(ours, theirs), 4),
        "tokens_until_they_differ": round(
            statistics.mean(same_until(a, b) for a, b in zip(ours, theirs, strict=True)), 1
        ),
    }


def same_until(row: list[int], other: list[int]) -> int:
    """Tokens before the first that differs."""
    pairs = enumerate(zip(row, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(row), len(other)))


def equal_share(ours: Answers, peer: Answers) -> float:
    """Share of places at which two sets of answers have the same token."""
    pairs = [zip(a, b, strict=False) for a, b in zip(ours, peer, strict=True)]
    equal = [a == b for pair in pairs for a, b in pair]
    return sum(equal) / len(equal)


def loaded(placement: Placement) -> Any:
    section = ModelSection(dtype=placement.dtype_name)  # type: ignore[arg-type]
    return load_model(section, placement).model.eval()


def encoded_prompts(data: Path | None, count: int) -> Answers:
    """Prompts in the model's own chat form, of mixed lengths."""
    if data is None:
        questions = [row.instruction for row in read_rows(Recipe().data).rows]
    else:
        lines = data.read_text(encoding="utf-8").splitlines()
        questions = [json.loads(line)["instruction"] for line in lines]
    wording = make_encoder(Recipe(model=ModelSection())).format
    texts = [
        wording.prompt(Example(str(index), str(index), "test", question, "", ""))
        for index, question in enumerate(questions[: 20 * count])
    ]
    return [ids for ids in wording.encode_prompts(texts) if len(ids) <= MAX_PROMPT_TOKENS][:count]


def products_per_second(placement: Placement) -> float:
    """FLOPs per second of a large matrix product, the best of five."""
    n = 8192 if placement.device.type == "cuda" else 2048
    a = torch.randn(n, n, device=placement.device, dtype=placement.dtype)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        float((a @ a)[0, 0])
        best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def bytes_per_second(placement: Placement) -> float:
    """Of reading far more than the caches hold, the best of five."""
    data = torch.ones(64 * 1024 * 1024, device=placement.device)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        float(data.sum())
        best = max(best, data.numel() * 4 / (time.perf_counter() - started))
    return best


def device_name(placement: Placement) -> str:
    if placement.device.type == "cuda":
        return torch.cuda.get_device_name(placement.device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
