"""Every adapter that is ever scored on a test split is counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from veritune.model.adapter import WEIGHTS
from veritune.model.other_adapters import OtherAdapter
from veritune.pipeline import evaluate
from veritune.pipeline.ledger import count_reading
from veritune.recipe_file import recipe_from
from veritune.run_dir import RunDirectory


def test_readings_are_counted_per_split_and_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERITUNE_CACHE", str(tmp_path))
    assert count_reading("test-a", "adapter-1") == 1
    assert count_reading("test-a", "adapter-1") == 1, "the same adapter again is no new reading"
    assert count_reading("test-a", "adapter-2") == 2
    assert count_reading("test-b", "adapter-1") == 1
    (tmp_path / "test-ledger.json").write_text("[broken")
    assert count_reading("test-a", "adapter-1") == 1


def test_a_cache_that_cannot_be_written_costs_the_count_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VERITUNE_CACHE", str(tmp_path / "file/cache"))
    assert count_reading("test-a", "adapter-1") is None


def test_evaluations_that_end_together_are_all_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERITUNE_CACHE", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda n: count_reading("test", f"adapter-{n}"), range(40)))
    assert sorted(counts) == list(range(1, 41))


def test_other_adapters_that_answer_the_test_questions_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERITUNE_CACHE", str(tmp_path / "cache"))
    run, other = RunDirectory(tmp_path / "run"), tmp_path / "other"
    for place in (run.split_file("test"), run.adapter_weights, other / WEIGHTS):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(str(place).encode())
    named = recipe_from({"evaluate": {"adapters": [str(other)]}})
    monkeypatch.setattr(evaluate, "find_adapters", lambda _: [OtherAdapter("other", other, "")])
    assert evaluate._count_readings(run, named, "our adapter") == 2
