"""What every stage is handed, and what they all record."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import veritune
from veritune.config import Recipe
from veritune.pipeline.chosen_base import with_chosen
from veritune.pipeline.swept import with_winner
from veritune.progress import Reporter
from veritune.run_dir import RunDirectory

_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "pyarrow",
    "sacrebleu",
    "rouge-score",
    "scipy",
    "bm25s",
)


@dataclass(frozen=True)
class Context:
    """One run at work."""

    run: RunDirectory
    recipe: Recipe
    reporter: Reporter

    def skip(self, stage: str, inputs_sha256: str, outputs: list[Path]) -> bool:
        """Whether a stage can be skipped; says so if it is."""
        if not self.run.up_to_date(stage, inputs_sha256, outputs):
            return False
        self.reporter.say(f"{stage}: unchanged, kept")
        return True


def open_context(recipe: Recipe, reporter: Reporter) -> Context:
    """Claim ``output_dir`` for a recipe whose open choices are settled first.

    Raises:
        RunDirectoryError: the folder holds something else.
    """
    run = RunDirectory(Path(recipe.output_dir))
    recipe = settle(with_chosen(run, with_winner(run, recipe)), run)
    run.claim(recipe)
    if not run.manifest():
        run.update_manifest(
            veritune_version=veritune.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=recipe.seed,
            versions=versions(),
            stages={},
            notices=[],
        )
    return Context(run, recipe, reporter)


def settle(recipe: Recipe, run: RunDirectory) -> Recipe:
    """Keep what a trained run has fixed, so that no result can choose its own yardstick."""
    if recipe.evaluate.primary_metric != "auto" or not run.is_trained():
        return recipe
    fixed = run.recipe().evaluate.primary_metric
    evaluate = recipe.evaluate.model_copy(update={"primary_metric": fixed})
    return recipe.model_copy(update={"evaluate": evaluate})


def versions() -> dict[str, str]:
    """Versions of everything a number may depend on."""
    found = {"python": platform.python_version(), "veritune": veritune.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def add_notices(run: RunDirectory, notices: list[str]) -> None:
    """Keep each notice once, for the report."""
    known: list[Any] = list(run.manifest().get("notices", []))
    fresh = [text for text in notices if text and text not in known]
    if fresh:
        run.update_manifest(notices=[*known, *fresh])
