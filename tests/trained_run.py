"""Tiny runs whose adapters clearly answer otherwise than their base."""

from __future__ import annotations

from pathlib import Path

import pytest

from distinct_rows import write_distinct_recipe
from test_main_job import invoke
from tiny_models import Architecture, build_model


def make_trained_run(architecture: Architecture, folder: Path, *, verb: str = "train") -> Path:
    """Train (``run``: and evaluate) a tiny run; returns its directory."""
    model = build_model(architecture, folder / "model")
    recipe = write_distinct_recipe(
        folder, model, train__learning_rate=0.05, train__epochs=8, train__keep="last"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VERITUNE_CACHE", str(folder / "cache"))
        outcome = invoke(
            verb, recipe,
            "--set", "evaluate.latency_rounds=0",
            "--set", "evaluate.forgetting.n_chunks=0",
            "--set", "evaluate.run_answers=false",
        )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    return folder / "run"
