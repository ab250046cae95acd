"""Finished runs, as small and as large as reports meet them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import build_run

from browser import browser  # noqa: F401
from veritune.rows import (
    read_examples,
    read_predictions,
    read_scores,
    write_examples,
    write_predictions,
    write_scores,
)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 60 unseen questions; tests do not write into it."""
    return build_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="session")
def report(finished_run: Path) -> Path:
    """The page of ``finished_run``."""
    from veritune.report import build_report

    return build_report(finished_run)[0]


@pytest.fixture(scope="session")
def big_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,020 unseen questions: those of ``finished_run``, seventeen times, all code distinct."""
    path = tmp_path_factory.mktemp("runs") / "big"
    copies = range(17)
    test = read_examples(finished_run / "data" / "test.parquet")
    write_examples(
        path / "data" / "test.parquet",
        [
            replace(
                row,
                example_id=f"{row.example_id}-{copy}",
                reference=f"{row.reference}\n# {row.example_id} {copy}",
            )
            for copy in copies
            for row in test
        ],
    )
    ids = {row.example_id for row in test}
    for file in (finished_run / "predictions").iterdir():
        write_predictions(
            path / "predictions" / file.name,
            [
                replace(
                    row,
                    example_id=f"{row.example_id}-{copy}",
                    code=f"# {row.example_id} {copy} {file.stem}\n{row.code}",
                )
                for copy in copies
                for row in read_predictions(file)
                if row.example_id in ids
            ],
        )
    scores = [row for row in read_scores(finished_run / "scores.parquet") if row.example_id in ids]
    write_scores(
        path / "scores.parquet",
        [replace(row, example_id=f"{row.example_id}-{n}") for n in copies for row in scores],
    )
    for name in ("comparison.json", "manifest.json", "recipe.yaml", "train_log.jsonl"):
        (path / name).write_bytes((finished_run / name).read_bytes())
    return path
