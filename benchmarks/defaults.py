"""Which settings should be the defaults?  Trains several, answers held-out questions with each.

Every set of settings trains the bundled SmolLM2 on the same training rows and answers the same
validation questions; no test row is read.  The retrieval baseline (the answer of the nearest
training question) answers them too.  A validation split as large as this one costs training rows,
which a recipe for use gives back.

    python benchmarks/defaults.py --data rows.jsonl                        # the settings below
    python benchmarks/defaults.py --data code:stdlib --max-rows 400 \\
        --try "lora.r=8 train.epochs=4" --try "lora.r=32 train.epochs=4"

JSON lines go to stdout (corpus chrF with its 95 % interval over clusters, share that parses, lowest
validation loss, seconds), progress and a table to stderr.  With ``--keep FOLDER`` an interrupted
search goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from rich.console import Console
from rich.table import Table

from veritune.compare.curve import value_interval
from veritune.config import Recipe
from veritune.model.hardware import cpu_name
from veritune.pipeline.context import Context, open_context
from veritune.pipeline.prepare import prepare_stage
from veritune.pipeline.sub_runs import answers_of, open_sub_run
from veritune.progress import TerminalReporter
from veritune.recipe_file import recipe_from
from veritune.rows import Example, Prediction, read_examples
from veritune.score import corpus_value, score_predictions

COMMON = {
    "lora.r": 16,
    "lora.alpha": 32,
    "lora.dropout": 0.0,
    "lora.target_modules": "all-linear",
    "train.learning_rate": 1e-3,
    "train.schedule": "cosine",
    "train.warmup_steps": 5,
    "train.padding": "packed",
    "train.epochs": 8,
    "train.keep": "last",
}
TRIED = (
    "lora.target_modules=attention train.epochs=3",
    "train.epochs=3",
    "train.epochs=8 train.keep=best",
    "train.epochs=8",
    "train.epochs=8 train.learning_rate=2e-3",
    "train.epochs=8 train.learning_rate=5e-4",
    "train.epochs=8 lora.r=4",
    "train.epochs=8 lora.dropout=0.1",
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", required=True, help="as data.source in a recipe")
    arguments.add_argument("--max-rows", type=int)
    arguments.add_argument("--max-pair-tokens", type=int, default=512)
    arguments.add_argument("--max-new-tokens", type=int, default=192)
    arguments.add_argument("--try", dest="tried", action="append", help="settings, with blanks")
    arguments.add_argument("--keep", type=Path, help="a folder for the trainings")
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="veritune-benchmark-") as temporary:
        folder = chosen.keep or Path(temporary) / "search"
        context = open_context(common_recipe(chosen, folder), TerminalReporter())
        prepare_stage(context)
        lines = [measured(context, words) for words in [None, *(chosen.tried or TRIED)]]
    show(lines)


def common_recipe(chosen: argparse.Namespace, folder: Path) -> Recipe:
    """The recipe that all tried settings share; a fifth of the rows is never looked at."""
    content = {
        "output_dir": str(folder),
        "data": {
            "source": chosen.data,
            "max_rows": chosen.max_rows,
            "max_pair_tokens": chosen.max_pair_tokens,
            "split": {"method": "clusters", "validation": 0.2, "test": 0.2},
        },
        "evaluate": {"max_new_tokens": chosen.max_new_tokens, "batch_size": 32},
    }
    return recipe_from(content, [f"{key}={value}" for key, value in COMMON.items()])


def measured(context: Context, words: str | None) -> dict[str, Any]:
    """What one set of settings reaches on validation; None: what retrieval reaches."""
    validation = read_examples(context.run.split_file("validation"))
    overrides = (words or "").split()
    base = context.recipe.model_dump(mode="json")
    # Retrieval needs no training, but answers belong to a trained run.
    recipe = recipe_from(base, overrides if words else ["train.max_steps=1"])
    name = "_".join(overrides).replace("/", "-") or "retrieval"
    sub_run = open_sub_run(context, f"tried/{name}", name, recipe)
    system = "retrieval" if words is None else "adapted"
    answers = answers_of(sub_run, {system: validation})[system]
    summary = sub_run.run.stage_record("train").get("summary", {})
    line = {
        "work": "defaults",
        "settings": words or "retrieval",
        **scored(recipe, validation, answers),
        "lowest_validation_loss": summary.get("best_validation_loss") if words else None,
        "train_seconds": summary.get("train_runtime") if words else None,
        "n_train": len(read_examples(context.run.split_file("train"))),
        "n_validation": len(validation),
        "device": cpu_name(),
    }
    print(json.dumps(line), flush=True)
    return line


def scored(
    recipe: Recipe, validation: Sequence[Example], answers: Sequence[Prediction]
) -> dict[str, Any]:
    clusters = {row.example_id: row.cluster_id for row in validation}
    found: dict[str, Any] = {}
    for metric in ("chrf", "parse_rate"):
        scores = score_predictions(validation, answers, [metric])
        found[metric] = round(corpus_value(metric, scores), 2)
        if metric == "chrf":
            low, high = value_interval(metric, scores, clusters, resamples=2000, seed=recipe.seed)
            found["chrf_interval"] = [low and round(low, 2), high and round(high, 2)]
    return found


def show(lines: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"validation, {lines[0]['n_validation']} questions, {lines[0]['device']}")
    for column in ("settings", "chrF", "95 %", "parse", "lowest loss", "seconds"):
        table.add_column(column, justify="left" if column == "settings" else "right")
    for line in lines:
        low, high = line["chrf_interval"]
        loss, seconds = line["lowest_validation_loss"], line["train_seconds"]
        table.add_row(
            line["settings"],
            f"{line['chrf']:.1f}",
            f"{low:.1f} to {high:.1f}" if low is not None and high is not None else "",
            f"{line['parse_rate']:.0f} %",
            f"{loss:.3f}" if loss else "",
            f"{seconds:.0f}" if seconds else "",
        )
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
