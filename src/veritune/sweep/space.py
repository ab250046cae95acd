"""The space of a sweep: which configurations there are, and what each one trains."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np

from veritune.config import RangeSection, Recipe
from veritune.config.sweep import draws_whole_numbers, whole
from veritune.errors import RecipeError
from veritune.pipeline.swept import Settings, with_settings
from veritune.train.trainers import Configuration

LARGEST_GRID = 1000


def space_size(recipe: Recipe) -> float:
    """How many configurations there are; infinite where a range is among the settings."""
    if any(isinstance(choices, RangeSection) for choices in recipe.sweep.values()):
        return math.inf
    return math.prod(len(choices) for choices in _lists(recipe).values())


def refuse_unsearchable(recipe: Recipe) -> None:
    """Say what stands against searching this space, before anything is done.

    Raises:
        RecipeError: nothing to try, several base models, a grid over a range, or too many.
    """
    search = recipe.sweep_search
    if not recipe.sweep:
        raise RecipeError(
            "the recipe has nothing to sweep over",
            received="sweep: {}",
            accepted="settings with the values to try, such as sweep: {lora.r: [2, 4, 8]}",
            next_step="add a sweep section, or --set 'sweep.lora.r=[2,4,8]'",
        )
    if isinstance(recipe.model.name_or_path, list):
        raise RecipeError(
            "a sweep needs one base model, and the recipe names several to choose from",
            received=f"model.name_or_path: {recipe.model.name_or_path}",
            accepted="one name",
            next_step="--set model.name_or_path=NAME",
        )
    ranges = [key for key, choices in recipe.sweep.items() if isinstance(choices, RangeSection)]
    if ranges and search.method == "grid":
        raise RecipeError(
            "a grid has no end over a range of values",
            received=f"sweep.{ranges[0]}: a range, sweep_search.method: grid",
            accepted="lists of values for a grid; ranges for random, tpe, gp and qmc",
            next_step="--set sweep_search.method=random, or list the values",
        )
    size = space_size(recipe)
    if search.method == "grid" and search.n is None and size > LARGEST_GRID:
        shown = " x ".join(str(len(choices)) for choices in _lists(recipe).values())
        raise RecipeError(
            f"the grid has {size:,.0f} configurations",
            received=f"{shown} values",
            accepted=f"at most {LARGEST_GRID:,}, or a number of them to draw",
            next_step="--set sweep_search.n=100 draws so many of the grid",
        )


def grid(recipe: Recipe) -> list[Settings]:
    """Every combination, the last setting changing fastest."""
    lists = _lists(recipe)
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def sampled(recipe: Recipe, n: int, seed: int) -> list[Settings]:
    """Seeded draws that are all different; all there are where ``n`` is no fewer."""
    size = space_size(recipe)
    draw = np.random.default_rng([seed, 17])
    if size <= max(n, LARGEST_GRID):
        everything = grid(recipe)
        order = draw.permutation(len(everything)).tolist()
        return [everything[place] for place in order[:n]]
    found: dict[str, Settings] = {}
    # A range of whole numbers may hold fewer values than are asked for.
    for _ in range(100 * n):
        settings = {key: _drawn(key, choices, draw) for key, choices in recipe.sweep.items()}
        found.setdefault(named(settings), settings)
        if len(found) == n:
            break
    return list(found.values())


def named(settings: Settings) -> str:
    """A text by which equal settings are known."""
    return json.dumps(settings, sort_keys=True)


def configuration(recipe: Recipe, number: int, settings: Settings) -> Configuration:
    """What trains: every configuration with the recipe's own training seed."""
    own = with_settings(recipe, settings)
    return Configuration(number, own.lora, own.train, recipe.training_seed)


def without_searched(recipe: Recipe) -> dict[str, Any]:
    """The settings that all configurations have in common."""
    return {
        f"{section}.{name}": value
        for section in ("lora", "train")
        for name, value in getattr(recipe, section).model_dump().items()
        if f"{section}.{name}" not in recipe.sweep
    }


def _lists(recipe: Recipe) -> dict[str, list[Any]]:
    return {key: choices for key, choices in recipe.sweep.items() if isinstance(choices, list)}


def _drawn(key: str, choices: RangeSection | list[Any], draw: np.random.Generator) -> Any:
    if isinstance(choices, list):
        return choices[int(draw.integers(len(choices)))]
    if draws_whole_numbers(key) and not choices.log:
        return int(draw.integers(int(choices.low), int(choices.high) + 1))
    if choices.log:
        value = math.exp(draw.uniform(math.log(choices.low), math.log(choices.high)))
    else:
        value = float(draw.uniform(choices.low, choices.high))
    return whole(key, min(choices.high, max(choices.low, value)))
