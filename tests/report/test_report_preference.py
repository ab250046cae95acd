"""Votes of people in the report."""

from __future__ import annotations

import shutil
from pathlib import Path

from veritune.report import build_report
from veritune.rows import read_examples
from veritune.run_dir import file_sha256
from veritune.votes import Vote, add_vote


def test_votes_on_this_adapter_become_a_section(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "voted"
    shutil.copytree(finished_run, run)
    (run / "adapter").mkdir(exist_ok=True)
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    _, text = build_report(run)
    assert "prefer" not in text.read_text(encoding="utf-8")

    sha = file_sha256(weights)
    trained = read_examples(run / "data" / "train.parquet")[0].instruction
    for number in range(7):
        add_vote(run / "votes.sqlite", Vote(f"q{number}", "adapted", "left", "a", "b", sha))
    add_vote(run / "votes.sqlite", Vote(trained, "base", "right", "a", "b", sha))
    add_vote(run / "votes.sqlite", Vote("q0", "base", "right", "a", "b", "of an earlier one"))
    page, text = build_report(run)
    markdown = text.read_text(encoding="utf-8")
    assert "What do people prefer, blind?" in markdown
    assert "the adapted answer 7 times, the base’s 0 times" in markdown
    assert "0.016" in markdown and "1 vote on an earlier adapter left out" in markdown
    assert 'id="preference"' in page.read_text(encoding="utf-8")

    (run / "votes.sqlite").write_bytes(b"broken" * 500)
    _, text = build_report(run)
    assert "votes.sqlite could not be read" in text.read_text(encoding="utf-8")
