"""What data and models write drives no terminal, wherever it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test_main_job import invoke, write_recipe

HOSTILE = "\x1b]0;owned\x07\x1b[31m \u202e [red]mark[/red]"
VISIBLE = "[U+001B]]0;owned[U+0007][U+001B][31m [U+202E] [red]mark[/red]"


def _hostile_rows(recipe: Path) -> None:
    source = recipe.parent / "rows.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row in rows:
        row["instruction"] += HOSTILE
        row["output"] += f"# {HOSTILE}\n"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_plan_shows_an_example_and_does_not_obey_it(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_llama_folder)
    _hostile_rows(recipe)
    outcome = invoke("plan", recipe)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.replace("\n", "").count(VISIBLE) == 2
    assert not {"\x1b", "\x07", "\u202e"} & set(outcome.stdout + outcome.stderr)


@pytest.mark.usefixtures("sandbox")
def test_the_fault_of_a_test_does_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    row = {"answer": "x = 1", "reference": "x = 1", "tests": [f"raise ValueError({HOSTILE!r})"]}
    source = tmp_path / "p.jsonl"
    source.write_text(json.dumps(row) + "\n")
    for options in ([], ["--allow-broken-references"]):
        outcome = invoke("score", source, *options)
        said = outcome.stdout + outcome.stderr
        assert f"ValueError: {VISIBLE}" in said
        assert not {"\x1b", "\x07", "\u202e"} & set(said)
