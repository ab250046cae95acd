"""How much memory training takes, foretold by `veritune plan` and measured.

Each case trains a few steps in a process of its own, on pairs that are all equally long, so that
every batch is the largest; what the process's resident memory grows by, from before the model is
loaded to the peak of a step, stands against the estimate's total.

    python benchmarks/memory.py                # both models, a few minutes
    python benchmarks/memory.py --only smollm2

``smollm2`` is the bundled model, ``codet5`` CodeT5-base's shape with random weights.  Prints a
JSON line a case (``work``, ``foretold_bytes``, ``measured_bytes``, ``ratio``: foretold over
measured) and a table, and writes nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
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

from veritune.config import LoraSection, ModelSection, TrainSection
from veritune.model.allocator import give_back_early
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.model.memory import StepMemory
from veritune.progress import Silent
from veritune.train.batches import EncodedPair, make_layout
from veritune.train.flops import count_weights
from veritune.train.loop import Training
from veritune.train.memory import estimator

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        source, target: tokens of every question and answer.
        again: whether activations are computed again in the backward pass.
        gives_back: whether freed blocks go back to the system at once, as where memory is short.
        layers: of the tiny model; the others have their own.
    """

    model: str
    batch: int
    source: int
    target: int
    dtype: str
    padding: Any = "packed"
    again: bool = False
    targets: Any = "attention"
    gives_back: bool = False
    layers: int = 12

    @property
    def work(self) -> str:
        """Its name."""
        again = "/recomputed" if self.again else ""
        targets = "" if self.targets == "attention" else f"/{self.targets}"
        back = "/given-back" if self.gives_back else ""
        return (
            f"memory/{self.model}/{self.batch}x{self.source}+{self.target}/{self.dtype}"
            f"/{self.padding}{targets}{again}{back}"
        )


CASES = (
    Case("smollm2", 8, 40, 80, "bfloat16"),
    Case("smollm2", 8, 40, 80, "bfloat16", gives_back=True),
    Case("smollm2", 8, 40, 80, "float32"),
    Case("smollm2", 4, 100, 300, "bfloat16", targets="all-linear"),
    Case("smollm2", 4, 100, 300, "bfloat16", again=True),
    Case("smollm2", 8, 40, 80, "float32", padding="longest_in_batch"),
    Case("codet5", 8, 19, 165, "float32"),
    Case("codet5", 8, 19, 165, "bfloat16"),
    Case("codet5", 8, 19, 165, "bfloat16", gives_back=True),
    Case("codet5", 8, 19, 165, "float32", padding="longest_in_batch"),
    Case("codet5", 4, 200, 300, "bfloat16"),
    Case("codet5", 4, 200, 300, "float32", again=True),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=3, help="optimizer steps a case")
    arguments.add_argument("--only", default="", help="cases whose name contains this")
    arguments.add_argument("--case", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    if chosen.case:
        print(json.dumps(measure(Case(**json.loads(chosen.case)), chosen.steps)))
        return
    table = Table(title="MiB of resident memory, above the process before the model")
    for column in ("work", "foretold", "measured", "foretold / measured"):
        table.add_column(column)
    for case in CASES:
        if chosen.only not in case.work:
            continue
        found = measured_apart(case, chosen.steps)
        print(json.dumps(found), flush=True)
        mib = [f"{found[name] / 2**20:,.0f}" for name in ("foretold_bytes", "measured_bytes")]
        table.add_row(case.work, *mib, f"{found['ratio']:.2f}")
    Console().print(table)


def measured_apart(case: Case, steps: int) -> dict[str, Any]:
    """``measure`` in a fresh process: what this one freed before would hide what that one needs."""
    done = subprocess.run(
        [sys.executable, __file__, "--steps", str(steps), "--case", json.dumps(asdict(case))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(case: Case, steps: int) -> dict[str, Any]:
    """Train, and compare the peak with what was foretold."""
    pairs = pairs_of(case)
    memory = StepMemory(CPU)
    model = attach_lora(model_of(case), LoraSection(r=8, target_modules=case.targets), seed=0)
    kind: Any = "seq2seq" if case.model == "codet5" else "causal"
    layout = make_layout(kind, case.padding, pairs, pad_id=0, decoder_start_id=0)
    if case.padding == "packed":
        use_packed_attention(model, case.source + case.target)
    dtype = getattr(torch, case.dtype)
    # The bundled model is stored in bf16, and in that precision used as it lies in its file.
    mapped = case.model == "smollm2" and case.dtype == "bfloat16"
    need = estimator(model, layout, pairs, dtype=dtype, captured=False, mapped=mapped).need(
        case.batch, recomputes=case.again
    )
    # As the training stage decides; so much is never short.
    free = 0 if case.gives_back else 2**60
    if need.gives_back(free, CPU):
        give_back_early()
    foretold = need.resident(free, CPU)
    section = TrainSection(
        padding=case.padding, batch_size=case.batch, max_steps=steps, epochs=100, keep="last"
    )
    with tempfile.TemporaryDirectory() as folder:
        Training(
            model=model, layout=layout, section=section, train=pairs, validation=[], seed=0,
            device=CPU, folder=Path(folder) / "checkpoints", log_path=Path(folder) / "log.jsonl",
            inputs_sha256="", weights=count_weights(model), reporter=Silent(),
            watch=memory.watch, resumable=False, recomputes=case.again,
        ).run()  # fmt: skip
    peak = int(str(memory.to_json()["peak_memory_bytes"]))
    return {
        "work": case.work,
        "foretold_bytes": foretold,
        "measured_bytes": peak,
        "ratio": round(foretold / peak, 3),
        "parts": {name: getattr(need, name) for name in
                  ("weights", "adapter", "activations", "passing")},
    }  # fmt: skip


def pairs_of(case: Case) -> list[EncodedPair]:
    """Random tokens; no two questions begin alike, so that nothing is computed once for all."""
    draw = torch.Generator().manual_seed(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, 30000 if case.model != "tiny" else 900, (n,),
                                   generator=draw).tolist())  # fmt: skip

    return [EncodedPair(str(i), ids(case.source), ids(case.target)) for i in range(case.batch)]


def model_of(case: Case) -> Any:
    """The frozen base."""
    dtype = getattr(torch, case.dtype)
    if case.model == "smollm2":
        section = ModelSection(dtype=case.dtype)  # type: ignore[arg-type]
        return load_model(section, Placement(CPU, dtype)).model
    torch.manual_seed(0)
    with _born_as(dtype):
        if case.model == "codet5":
            from transformers import T5Config, T5ForConditionalGeneration

            shape = T5Config(
                vocab_size=32100, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12,
                decoder_start_token_id=0,
            )  # fmt: skip
            return T5ForConditionalGeneration(shape).requires_grad_(False)
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=8000, hidden_size=256, intermediate_size=768,
            num_hidden_layers=case.layers, num_attention_heads=8, num_key_value_heads=4,
            bos_token_id=None, eos_token_id=3, pad_token_id=0,
        )  # fmt: skip
        return LlamaForCausalLM(config).requires_grad_(False)


class _born_as:  # noqa: N801 - used like a function
    """Make weights in a precision, so that no wider copy of them raises the peak."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __enter__(self) -> None:
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self._before)


if __name__ == "__main__":
    main()
