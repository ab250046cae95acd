"""``--require`` in a script: everything is written and printed, then the exit code speaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distinct_rows import own_cache, write_distinct_recipe  # noqa: F401
from test_main_job import invoke


@pytest.fixture
def finished(tiny_llama_folder: Path, tmp_path: Path, own_cache: None) -> Path:  # noqa: F811
    assert invoke("run", write_distinct_recipe(tmp_path, tiny_llama_folder)).exit_code == 0
    return tmp_path


def test_a_gate_exits_with_1_after_all_is_written_and_printed_or_with_0(
    finished: Path,
) -> None:
    (finished / "run/report.html").unlink()
    outcome = invoke("run", finished / "recipe.yaml", "--require", "better", "--json")
    assert outcome.exit_code == 1
    result = json.loads(outcome.stdout)
    assert (finished / "run/report.html").is_file()
    assert result["gate"]["required"] == "better" and result["gate"]["passed"] is False
    assert result["verdict"] != "better"
    assert result["gate"]["reason"] in outcome.stderr
    assert "Traceback" not in outcome.stderr

    in_words = invoke("evaluate", finished / "run", "--require", "better")
    assert in_words.exit_code == 1
    assert "adapted against the others" in in_words.stdout
    assert "Traceback" not in in_words.stderr

    outcome = invoke(
        "evaluate", finished / "run", "--require", "not-worse", "--json",
        "--set", "evaluate.margin=100",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    assert json.loads(outcome.stdout)["gate"]["passed"] is True


def test_an_unknown_gate_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    outcome = invoke("run", tmp_path / "recipe.yaml", "--require", "best")
    assert outcome.exit_code == 2
    assert "not-worse" in outcome.stderr
