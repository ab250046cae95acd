"""Everything a report is made of, read from one run directory.

A file that is missing is an unfinished stage; a file that cannot be read is noted, and the
rest of the report is still written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from veritune.errors import RunDirectoryError, VerituneError
from veritune.report.wording import is_number, mapping, one_line
from veritune.rows import (
    SPLITS,
    Conclusion,
    Example,
    Prediction,
    Score,
    read_comparisons,
    read_examples,
    read_predictions,
    read_scores,
)
from veritune.run_dir import RunDirectory, file_sha256
from veritune.train.log import read_log
from veritune.votes import Vote, read_votes

T = TypeVar("T")

ORDER = ("adapted", "baseline", "few_shot", "retrieval", "full_finetune", "merged")


@dataclass(frozen=True)
class RunFiles:
    """The content of a run directory; empty where a stage was not run.

    Attributes:
        examples: by split, in file order.
        predictions: first answers by system and example id; systems in display order.
        scores: by (example id, system), then metric.
        votes: of people on pairs of answers, also on earlier adapters of this run.
        adapter_sha256: of the adapter's weights, empty if there are none.
        problems: one sentence for each file that could not be read.
    """

    path: Path
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[str, dict[str, Prediction]] = field(default_factory=dict)
    scores: dict[tuple[str, str], dict[str, Score]] = field(default_factory=dict)
    conclusion: Conclusion | None = None
    votes: list[Vote] = field(default_factory=list)
    adapter_sha256: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def systems(self) -> list[str]:
        """Systems that answered, the adapted one first."""
        return list(self.predictions)

    @property
    def primary_metric(self) -> str:
        """The metric of the verdict, from the conclusion or else the recipe."""
        if self.conclusion is not None:
            return self.conclusion.primary_metric
        named = mapping(self.recipe.get("evaluate")).get("primary_metric")
        return named if isinstance(named, str) and named != "auto" else "chrf"

    def details(self, name: str) -> Any:
        """A further table of ``comparison.json``, or None."""
        return None if self.conclusion is None else self.conclusion.details.get(name)

    def stage(self, name: str) -> dict[str, Any]:
        """What the manifest knows of a stage."""
        return mapping(mapping(self.manifest.get("stages")).get(name))


def load_run(path: Path) -> RunFiles:
    """Read whatever a run directory holds.

    Raises:
        RunDirectoryError: there is no such folder.
    """
    if not path.is_dir():
        raise RunDirectoryError(
            "there is no run directory here",
            received=path,
            accepted="a folder that `veritune run` or `veritune prepare` wrote",
            next_step="name the run's output_dir",
        )
    run = RunDirectory(path)
    reader = _Reader(path)
    recipe_text = reader.read(run.recipe_file, _read_text, "")
    examples: dict[str, list[Example]] = {}
    for split in SPLITS:
        examples[split] = reader.read(run.split_file(split), read_examples, [])
    predictions: dict[str, dict[str, Prediction]] = {}
    for file in sorted(run.predictions.glob("*.jsonl"), key=lambda item: _place(item.stem)):
        predictions[file.stem] = reader.read(file, _read_answers, {})
    scores: dict[tuple[str, str], dict[str, Score]] = reader.read(run.scores, _read_score_table, {})
    # Answers of a system that the last evaluation did not ask are kept on disk, not shown.
    scored = {system for _, system in scores} or predictions.keys()
    return RunFiles(
        path=path,
        recipe_text=recipe_text,
        recipe=reader.read(run.recipe_file, _read_yaml, {}),
        manifest=reader.read(run.manifest_file, lambda _: run.manifest(), {}),
        card=reader.read(run.data / "card.json", _read_json, {}),
        examples={split: rows for split, rows in examples.items() if rows},
        log=reader.read(run.train_log, _read_events, []),
        predictions={
            name: answers for name, answers in predictions.items() if answers and name in scored
        },
        scores=scores,
        conclusion=reader.read(run.comparison, _read_conclusion, None),
        votes=reader.read(run.votes, read_votes, []),
        adapter_sha256=reader.read(run.adapter_weights, file_sha256, ""),
        problems=reader.problems,
    )


def _place(system: str) -> tuple[int, str]:
    return (ORDER.index(system) if system in ORDER else len(ORDER), system)


class _Reader:
    """Reads files of a run; those that cannot be read become sentences."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def read(self, path: Path, how: Callable[[Path], T], default: T) -> T:
        if not path.is_file():
            return default
        try:
            return how(path)
        except VerituneError as error:
            reason = error.received or error.fault
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}"
        except yaml.YAMLError as error:
            reason = f"not YAML: {error}"
        sentence = f"{path.relative_to(self.folder)} could not be read ({one_line(reason)})"
        if not any(path.name in known for known in self.problems):
            self.problems.append(f"{sentence}; what it holds is left out.")
        return default


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _read_yaml(path: Path) -> dict[str, Any]:
    return mapping(yaml.safe_load(_read_text(path)))


def _read_json(path: Path) -> dict[str, Any]:
    return mapping(json.loads(_read_text(path)))


def _read_events(path: Path) -> list[dict[str, Any]]:
    return [event for event in read_log(path) if isinstance(event, dict)]


def _read_answers(path: Path) -> dict[str, Prediction]:
    rows = read_predictions(path)
    for row in rows:
        _check_text(row, "example_id", "code", "finish_reason")
    return {row.example_id: row for row in rows if row.sample_index == 0}


def _read_conclusion(path: Path) -> Conclusion | None:
    conclusion = read_comparisons(path)
    _check_text(conclusion, "primary_metric", "best_baseline", "verdict", "sentence")
    for row in conclusion.comparisons:
        _check_text(row, "metric", "system", "against", "signature", "verdict")
        if not is_number(row.delta):
            raise ValueError(f"delta is {row.delta!r}")
        for name in ("ci_low", "ci_high", "mde"):
            value = getattr(row, name)
            if value is not None and not is_number(value):
                raise ValueError(f"{name} is {value!r}")
    return conclusion


def _check_text(record: object, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(record, name), str):
            raise ValueError(f"{name} is {getattr(record, name)!r}, not text")


def _read_score_table(path: Path) -> dict[tuple[str, str], dict[str, Score]]:
    table: dict[tuple[str, str], dict[str, Score]] = {}
    for row in read_scores(path):
        table.setdefault((row.example_id, row.system), {})[row.metric] = row
    return table
