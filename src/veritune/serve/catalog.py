"""The runs that are served: what each is called, and how its questions become tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veritune.config import Recipe
from veritune.errors import ModelReferenceError, RunDirectoryError
from veritune.generate.engine import BASE
from veritune.model.adapter import CONFIG, WEIGHTS
from veritune.model.load import located
from veritune.model.prompt import PromptFormat
from veritune.run_dir import RunDirectory, file_sha256, open_run

_LONGEST_NAME = 64


@dataclass(frozen=True)
class ServedRun:
    """One run and the name of its adapted model.

    Attributes:
        adapter_sha256: of the adapter's weights, so that votes belong to one adapter.
    """

    name: str
    run: RunDirectory
    recipe: Recipe
    format: PromptFormat
    adapter_sha256: str


@dataclass(frozen=True)
class Catalog:
    """Everything that can be asked for by name.

    Attributes:
        base: what the base model is called in words.
        created: Unix time of the youngest adapter.
    """

    runs: tuple[ServedRun, ...]
    base: str
    created: int

    @property
    def names(self) -> tuple[str, ...]:
        """``base`` and every run."""
        return (BASE, *(run.name for run in self.runs))

    def run_of(self, name: str) -> ServedRun:
        """The run whose wording a model name uses; the first one's for ``base``.

        Raises:
            ModelReferenceError: no such model.
        """
        if name == BASE:
            return self.runs[0]
        for run in self.runs:
            if run.name == name:
                return run
        raise ModelReferenceError(
            "no such model here", received=name, accepted=", ".join(self.names)
        )


def open_runs(paths: Sequence[Path]) -> list[tuple[str, RunDirectory, Recipe]]:
    """Check runs that are to share one base: (name, directory, recipe) of each.

    Raises:
        RunDirectoryError: one is not a run, or not trained.
        ModelReferenceError: they are of different bases.
    """
    found: list[tuple[str, RunDirectory, Recipe]] = []
    taken = {BASE}
    for path in paths:
        run = open_run(path)
        for name in (CONFIG, WEIGHTS):
            if not (run.adapter / name).is_file():
                raise RunDirectoryError(
                    f"the run has no adapter yet: adapter/{name} is missing",
                    received=path,
                    accepted="a run that was trained",
                    next_step=f"veritune train {path}",
                )
        name = _unique(path.resolve().name, taken)
        taken.add(name)
        found.append((name, run, run.recipe()))
    first = _Base(found[0][2])
    for _, run, recipe in found[1:]:
        first.refuse_another(run, recipe)
    return found


class _Base:
    """The base model of the first run, as something others can be compared with."""

    def __init__(self, recipe: Recipe) -> None:
        self._section = recipe.model
        self._location = located(recipe.model).location
        self._weights: Any = None

    def refuse_another(self, run: RunDirectory, recipe: Recipe) -> None:
        section, location = recipe.model, located(recipe.model).location
        same = section.init == self._section.init and section.dtype == self._section.dtype
        if same and section.init == "random":
            same = location == self._location
        elif same and location == self._location:
            same = section.revision == self._section.revision
        elif same:
            here, there = Path(self._location), Path(location)
            same = here.is_dir() and there.is_dir() and _weights(here) == _weights(there)
        if not same:
            raise ModelReferenceError(
                "the runs are of different base models, and one server holds one base",
                received=f"{run.path}: {section.name} ({section.dtype}, {section.init})",
                accepted=f"runs on {self._section.name}"
                f" ({self._section.dtype}, {self._section.init})",
                next_step="serve it on a port of its own",
            )


def served(found: Sequence[tuple[str, RunDirectory, Recipe, PromptFormat]], base: str) -> Catalog:
    """The catalogue of checked runs with their wording."""
    runs = tuple(
        ServedRun(name, run, recipe, wording, file_sha256(run.adapter_weights))
        for name, run, recipe, wording in found
    )
    made = max(int(run.run.adapter_weights.stat().st_mtime) for run in runs)
    return Catalog(runs, base, made)


def _weights(folder: Path) -> list[tuple[str, str]]:
    return [(file.name, file_sha256(file)) for file in sorted(folder.glob("*.safetensors"))]


def _unique(name: str, taken: set[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:_LONGEST_NAME] or "run"
    chosen, number = plain, 2
    while chosen in taken:
        chosen, number = f"{plain}-{number}", number + 1
    return chosen
