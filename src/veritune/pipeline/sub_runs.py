"""Trainings inside a run: a directory of its own, the same data or part of it, one change.

A sub-run has everything a run has (recipe, manifest, data, checkpoints, adapter), so it is
resumed, skipped when up to date, and reported like one.  It belongs to its parent: what it
holds of another recipe or other data is thrown away, since the parent has refused the change
already if anything of its own could be lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import veritune
from veritune.atomic import atomic_write
from veritune.config import Recipe, SystemName
from veritune.generate.systems import RETRIEVAL, Systems
from veritune.model.adapter import WEIGHTS, load_adapter
from veritune.model.hardware import choose_placement
from veritune.model.load import load_model
from veritune.pipeline.chosen_base import chosen_base, chosen_run
from veritune.pipeline.context import Context, versions
from veritune.pipeline.encode import make_encoder
from veritune.pipeline.hub_commits import refuse_moved_model
from veritune.pipeline.train import train_stage
from veritune.progress import Reporter, Task
from veritune.rows import (
    Example,
    Prediction,
    Split,
    read_examples,
    read_predictions,
    write_examples,
    write_predictions,
)
from veritune.run_dir import RunDirectory, digest, file_sha256
from veritune.score import extract_code

_TRAINED_ON: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class Named:
    """A reporter that says whose news it is."""

    name: str
    reporter: Reporter

    def say(self, text: str) -> None:
        """One line of news."""
        self.reporter.say(f"[{self.name}] {text.strip()}")

    def task(self, name: str, total: float | None) -> contextlib.AbstractContextManager[Task]:
        """A bar for the time of a ``with`` block."""
        return self.reporter.task(f"{name}, {self.name}", total)


def open_sub_run(
    parent: Context,
    folder: str,
    name: str,
    recipe: Recipe,
    *,
    train: Sequence[Example] | None = None,
) -> Context:
    """Make or find the sub-run in ``folder`` of the parent's run directory.

    Args:
        folder: relative, such as ``seeds/1``.
        name: what progress calls it, such as ``seed 1``.
        recipe: its recipe; ``output_dir`` is set here.
        train: its training rows; None: the parent's.
    """
    run = RunDirectory(parent.run.path / folder)
    recipe = recipe.model_copy(update={"output_dir": str(run.path)})
    if run.recipe_file.is_file() and run.is_trained() and not _is_same(run, parent, recipe, train):
        parent.reporter.say(f"[{name}] belongs to other data or settings; made again")
        shutil.rmtree(run.path)
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
    for split in _TRAINED_ON:
        target = run.split_file(split)
        if split == "train" and train is not None:
            if not target.is_file() or read_examples(target) != list(train):
                write_examples(target, train)
        else:
            place_file(parent.run.split_file(split), target)
    return Context(run, recipe, Named(name, parent.reporter))


def answers_of(
    context: Context, wanted: Mapping[SystemName, Sequence[Example]]
) -> dict[SystemName, list[Prediction]]:
    """Train a sub-run and let its systems answer; whatever is up to date is kept."""
    train_stage(context)
    run, recipe = context.run, context.recipe
    systems: Systems | None = None
    found: dict[SystemName, list[Prediction]] = {}
    for system, examples in wanted.items():
        kept = _kept_answers(run, recipe, system, examples)
        if kept is None:
            if systems is None:
                systems = _open_systems(context, with_model=set(wanted) != {RETRIEVAL})
            kept = systems.answer(system, examples)
            known = dict(run.manifest().get("predictions", {}))
            if known.pop(system, None):
                # Killed after the next line, it must not pass for what it was.
                run.update_manifest(predictions=known)
            write_predictions(run.predictions / f"{system}.jsonl", kept)
            identity = _answers_identity(run, recipe, system, examples)
            run.update_manifest(predictions={**known, system: identity})
        found[system] = kept
    return found


def answer_rest(
    context: Context,
    system: str,
    examples: Sequence[Example],
    answer: Callable[[str, Sequence[Example]], list[Prediction]],
) -> list[Prediction]:
    """Answer what the choice of the base has not answered already, on validation."""
    kept: list[Prediction] = []
    if chosen_base(context.run):
        asked = [row for row in examples if row.split == "validation"]
        kept = _kept_answers(chosen_run(context.run), context.recipe, system, asked) or []
    known = {row.example_id: row for row in kept}
    rest = [row for row in examples if row.example_id not in known]
    known.update((row.example_id, row) for row in answer(system, rest))
    return [known[row.example_id] for row in examples]


def adapter_sha256(context: Context) -> str:
    """The hash by which the ledger of test readings knows a sub-run's adapter."""
    return file_sha256(context.run.adapter / WEIGHTS)


def place_file(source: Path, target: Path) -> None:
    """Put a file that is only ever replaced as a whole at a second place, without its bytes twice.

    A hard link where the file system has them, else a copy.
    """
    if target.is_file() and (target.samefile(source) or file_sha256(target) == file_sha256(source)):
        return
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _is_same(
    run: RunDirectory, parent: Context, recipe: Recipe, train: Sequence[Example] | None
) -> bool:
    if run.changes(recipe) or not all(run.split_file(split).is_file() for split in _TRAINED_ON):
        return False
    for split in _TRAINED_ON:
        own = run.split_file(split)
        if split == "train" and train is not None:
            if read_examples(own) != list(train):
                return False
        elif file_sha256(own) != file_sha256(parent.run.split_file(split)):
            return False
    return True


def _open_systems(context: Context, *, with_model: bool) -> Systems:
    run, recipe = context.run, context.recipe
    encoder = make_encoder(recipe)
    model: Any = None
    if with_model:
        loaded = load_model(recipe.model, choose_placement(recipe.model), seed=recipe.seed)
        refuse_moved_model(run, loaded)
        model = load_adapter(loaded.model, run.adapter)
    return Systems(
        model,
        encoder.format,
        recipe.evaluate,
        read_examples(run.split_file("train")),
        seed=recipe.seed,
        extract=extract_code,
        reporter=context.reporter,
        context_tokens=encoder.context_tokens,
    )


def _kept_answers(
    run: RunDirectory, recipe: Recipe, system: str, examples: Sequence[Example]
) -> list[Prediction] | None:
    """What the system has answered before, if it was asked exactly this."""
    path, known = run.predictions / f"{system}.jsonl", run.manifest().get("predictions", {})
    if system not in known or not path.is_file():
        return None
    if known[system] != _answers_identity(run, recipe, system, examples):
        return None
    return read_predictions(path)


def _answers_identity(
    run: RunDirectory, recipe: Recipe, system: str, examples: Sequence[Example]
) -> str:
    return digest(
        system,
        *([run.adapter] if system == "adapted" else []),
        run.split_file("train"),
        recipe.model.model_dump(),
        recipe.evaluate.max_new_tokens,
        recipe.evaluate.batch_size,
        recipe.data.input,
        recipe.seed,
        [[row.example_id, row.instruction, row.input] for row in examples],
    )
