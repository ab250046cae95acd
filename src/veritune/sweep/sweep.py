"""The sweep itself: generations of configurations, judged at rungs, until the search is over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from veritune.config import Recipe
from veritune.errors import EnvironmentFault
from veritune.pipeline.context import Context
from veritune.pipeline.swept import asked
from veritune.run_dir import digest
from veritune.sweep.bench import Bench
from veritune.sweep.forecast import known_settings, planned_work
from veritune.sweep.halving import epochs_of, rung_step, rungs, survivors
from veritune.sweep.results import Progress, Result
from veritune.sweep.search import Told, first_of_each, make_search
from veritune.sweep.space import named, without_searched
from veritune.sweep.together import Together
from veritune.train.schedule import step_count
from veritune.train.trainers import Configuration

FOLDER = "sweep"
_KEPT_AT_LEAST = 3


def search_space(context: Context, bench: Bench) -> Progress:
    """Train what the recipe asks for; what is on disk already is not trained again.

    Raises:
        EnvironmentFault: every configuration diverged.
    """
    recipe = context.recipe
    progress = Progress.open(context.run.path / FOLDER, sweep_identity(context))
    search = make_search(recipe)
    work = planned_work(recipe, search.total, known_settings(recipe), len(bench.train))
    with context.reporter.task("sweep", work.steps) as task:
        together = Together(bench, progress, context.reporter, task, slots=1)
        task.advance(sum(row.step for row in progress.results))
        generation = 0
        while settings := search.ask():
            results = _enlist(progress, settings, generation)
            _train_generation(together, results, generation)
            search.tell([_told(recipe, progress.results, row) for row in results])
            generation += 1
    if not any(row.status == "finished" for row in progress.results):
        raise EnvironmentFault(
            "every configuration of the sweep diverged",
            received=f"{len(progress.results)} configurations",
            accepted="at least one that trains to its end with a finite loss",
            next_step="lower the learning rates under sweep, add train.warmup_steps, or set"
            " model.dtype to float32; in another output_dir",
        )
    return progress


def sweep_identity(context: Context) -> str:
    """Hash of everything that decides what the configurations learn and which goes on."""
    run, recipe = context.run, context.recipe
    return digest(
        run.split_file("train"),
        run.split_file("validation"),
        asked(recipe),
        without_searched(recipe),
        recipe.model.model_dump(),
        recipe.data.input,
        recipe.training_seed,
        recipe.seed,
    )


def _enlist(
    progress: Progress, settings: Sequence[dict[str, Any]], generation: int
) -> list[Result]:
    """The results of a generation: those on disk, or new ones."""
    known = [row for row in progress.results if row.generation == generation]
    if known:
        if [named(row.settings) for row in known] != [named(one) for one in settings]:
            raise EnvironmentFault(
                "the search does not repeat itself, so the sweep cannot go on",
                received="other configurations than the ones on disk",
                accepted="the versions of optuna and numpy that the sweep was started with",
                next_step=f"install those, or delete {progress.folder} to sweep again",
            )
        return known
    earlier = [row.settings for row in progress.results]
    fresh = []
    for place, first in enumerate(first_of_each(settings, earlier)):
        number = len(earlier) + place
        row = Result(number, settings[place], generation)
        if first != number:
            row.status, row.reason = "repeated", f"the settings of number {first}"
        fresh.append(row)
    progress.results += fresh
    progress.save()
    return fresh


def _train_generation(together: Together, results: Sequence[Result], generation: int) -> None:
    bench, progress = together.bench, together.progress
    section = bench.recipe.sweep_search
    mine = [row for row in results if row.status != "repeated"]
    if all(row.is_over for row in mine):
        return
    n = len(bench.train)
    sections = {row.number: together.configuration(row) for row in mine}
    for row in mine:
        row.n_steps, _ = step_count(sections[row.number].train, n)
    left = [sections[row.number] for row in mine if not row.is_over]
    together.slots = _slots(bench, left, progress.slots.get(str(generation)))
    progress.slots[str(generation)] = together.slots
    together.reporter.say(
        f"sweep: {_count(len(mine))} of generation {generation + 1},"
        f" {min(together.slots, len(mine))} at a time on {bench.placement.device.type}"
    )
    alone = sum(not bench.shares(own) for own in sections.values())
    if alone:
        together.reporter.say(
            f"  {_count(alone)} cannot share a row (DoRA, trained biases, an initialisation that"
            " moves the base, or this architecture) and train one at a time"
        )
    longest = max(epochs_of(own.train, n) for own in sections.values())
    decided = progress.judged.setdefault(str(generation), [])
    before = {row.number: 0 for row in mine}
    for epochs in rungs(section.halving, longest):
        targets = {row.number: rung_step(sections[row.number].train, n, epochs) for row in mine}
        if not any(rung["epochs"] == epochs for rung in decided):
            together.train(mine, targets)
            _judge(together, mine, generation, epochs, before)
        before = targets
    together.train(mine, {row.number: row.n_steps for row in mine})
    _drop_states(together)


def _judge(
    together: Together,
    mine: Sequence[Result],
    generation: int,
    epochs: float,
    before: dict[int, int],
) -> None:
    """Stop the losers of a rung, and write that down together with it."""
    progress, recipe = together.progress, together.bench.recipe
    eta = recipe.sweep_search.halving.eta if recipe.sweep_search.halving else 2
    keep = recipe.train.keep
    reached = [
        row
        for row in mine
        if row.status == "training"
        or (row.status == "finished" and row.step > before[row.number])
        or (row.status == "diverged" and row.step >= before[row.number])
    ]
    earlier = [
        math.inf if loss is None else loss
        for name, decided in progress.judged.items()
        if name != str(generation)
        for rung in decided
        if rung["epochs"] == epochs
        for loss in rung["losses"].values()
    ]
    losses = {row.number: row.loss(keep) for row in reached}
    on = survivors(losses, earlier, eta)
    for row in reached:
        if row.status == "training" and row.number not in on:
            row.status = "stopped"
            row.reason = f"lost at {epochs:g} epoch{'' if epochs == 1 else 's'}"
    progress.judged[str(generation)].append(
        {
            "epochs": epochs,
            "losses": {
                str(number): loss if math.isfinite(loss) else None
                for number, loss in losses.items()
            },
            "on": on,
        }
    )
    _drop_states(together)


def _drop_states(together: Together) -> None:
    """Forget the tensors of those that can neither go on nor win."""
    recipe, progress = together.bench.recipe, together.progress
    n_kept = max(_KEPT_AT_LEAST, recipe.sweep_search.finalists)
    keep = recipe.train.keep
    finished = [row for row in progress.results if row.status == "finished"]
    best = sorted(finished, key=lambda row: (row.loss(keep), row.number))[:n_kept]
    for row in progress.results:
        if row.is_over:
            row.last = None
            row.best = row.best if row in best else None
    progress.save()


def _slots(bench: Bench, configurations: Sequence[Configuration], before: int | None) -> int:
    """How many train together; a sweep that goes on keeps to what it began with, if it can."""
    sharing = [own for own in configurations if bench.shares(own)]
    asked_for = bench.recipe.sweep_search.slots
    if asked_for != "auto":
        return asked_for
    if not sharing:
        return before or 1
    if before and bench.room(sharing, share=1.0) >= min(before, len(sharing)):
        return before
    return min(len(sharing), bench.room(sharing))


def _told(recipe: Recipe, results: Sequence[Result], result: Result) -> Told:
    if result.status == "repeated":
        first = next(row for row in results if named(row.settings) == named(result.settings))
        return _told(recipe, results, first)
    if result.status == "diverged":
        return Told([], None)
    losses = [(row["epoch"], row["validation_loss"]) for row in result.evaluations]
    return Told(losses, result.loss(recipe.train.keep) if result.status == "finished" else None)


def _count(n: int) -> str:
    return f"{n} configuration{'' if n == 1 else 's'}"


def sweep_folder(context: Context) -> Path:
    """Where a sweep keeps its files."""
    return context.run.path / FOLDER
