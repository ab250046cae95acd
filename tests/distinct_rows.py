"""A quick recipe on rows that are no near-copies of each other, so that intervals exist."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from test_main_job import write_recipe

N_TRAIN, N_VALIDATION, N_TEST = 12, 6, 32


def write_distinct_recipe(folder: Path, model: Path, **changes: Any) -> Path:
    """As ``write_recipe``, each row with words of its own."""
    recipe = write_recipe(folder, model, **changes)
    draw = random.Random(5)
    lines = []
    for _ in range(N_TRAIN + N_VALIDATION + N_TEST):
        words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(9)]
        row = {
            "instruction": f"Write {words[0]} {words[1]} with {words[2]} of {words[3]}.",
            "output": f"{words[4]} = {words[5]}({words[6]})\nprint({words[7]}, {words[8]})\n",
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "rows.jsonl").write_text("".join(lines))
    text = recipe.read_text()
    recipe.write_text(
        text.replace("train: 8", f"train: {N_TRAIN}").replace("validation: 5", "validation: 6")
    )
    return recipe


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of test readings that nobody else writes."""
    monkeypatch.setenv("VERITUNE_CACHE", str(tmp_path / "cache"))
