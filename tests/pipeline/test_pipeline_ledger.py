"""Every adapter that is ever scored on a test split is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from veritune.pipeline.ledger import count_reading


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
