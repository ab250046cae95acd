"""A recipe with a sweep, quick on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distinct_rows import write_distinct_recipe

RATES = [1e-3, 1e-2, 3e-2]
RANKS = [2, 4]


def write_sweep_recipe(
    folder: Path,
    model: Path,
    *,
    sweep: dict[str, Any] | None = None,
    search: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Two ranks by three rates over two epochs of three steps; ``train__x`` as usual."""
    train = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3}
    path = write_distinct_recipe(folder, model, train=train)
    content = yaml.safe_load(path.read_text())
    content["sweep"] = sweep or {"lora.r": RANKS, "train.learning_rate": RATES}
    content["sweep_search"] = {"halving": None, **(search or {})}
    content["evaluate"] |= {
        "run_answers": False,
        "latency_rounds": 0,
        "max_test_examples": 4,
        "max_validation_examples": 4,
        "forgetting": {"n_chunks": 0},
        "max_new_tokens": 8,
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        content[section] = {**content.get(section, {}), key: value}
    path.write_text(yaml.safe_dump(content))
    return path
