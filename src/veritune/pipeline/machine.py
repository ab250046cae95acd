"""Whether this machine can train as a recipe asks, said before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from veritune.config import Recipe
from veritune.errors import EnvironmentFault
from veritune.model.adapter import WEIGHTS
from veritune.model.hardware import Placement, choose_placement
from veritune.model.quantized import refuse_unusable
from veritune.pipeline.processes import refuse_too_many
from veritune.pipeline.trackers import refuse_unusable_trackers
from veritune.run_dir import RunDirectory
from veritune.train.engine import refuse_uncapturable


def refuse_undoable(run: RunDirectory, recipe: Recipe) -> None:
    """Raise the first thing that training would refuse on this machine, if it is to train.

    A run that was trained elsewhere can still be evaluated and reported here.

    Raises:
        EnvironmentFault: a device, a package or so many processes are not here.
        RecipeError: settings that no machine can do together.
    """
    if (run.adapter / WEIGHTS).is_file():
        return
    placement = choose_placement(recipe.model)
    for check in _checks(recipe, placement):
        check()


def undoable(recipe: Recipe, placement: Placement) -> list[str]:
    """What training would refuse here, a line each; a plan may be for another machine."""
    found = []
    for check in _checks(recipe, placement):
        try:
            check()
        except EnvironmentFault as fault:
            found.append(f"{fault.fault} ({fault.received})")
    return found


def _checks(recipe: Recipe, placement: Placement) -> Iterator[Callable[[], None]]:
    yield lambda: refuse_unusable(recipe.model, placement)
    yield lambda: refuse_too_many(recipe, placement)
    yield lambda: refuse_uncapturable(recipe.train.engine, placement.device)
    yield lambda: refuse_unusable_trackers(recipe)
