"""How much a sweep will train, told from its recipe alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from veritune.config import RangeSection, Recipe, TrainSection
from veritune.pipeline.swept import Settings
from veritune.sweep.halving import epochs_of, rung_step, rungs
from veritune.sweep.search import DEFAULT_N, make_search
from veritune.sweep.space import configuration, refuse_unsearchable
from veritune.train.schedule import step_count


@dataclass(frozen=True)
class Work:
    """What all configurations train together, about: who of them trains longest is not known.

    Attributes:
        steps: optimizer steps; epochs: passes over the training rows.
    """

    steps: int
    epochs: float


def forecast(recipe: Recipe, plan: dict[str, Any]) -> dict[str, Any]:
    """What ``plan`` prints of the sweep in a recipe.

    Args:
        plan: of one training by the recipe's own values.

    Raises:
        RecipeError: the space cannot be searched as the recipe says.
    """
    refuse_unsearchable(recipe)
    search, n_train = recipe.sweep_search, int(plan["n_train"])
    known = known_settings(recipe)
    n = len(known) if known is not None else search.n or DEFAULT_N
    work = planned_work(recipe, n, known, n_train)
    times = work.epochs / epochs_of(recipe.train, n_train)
    return {
        "n_configurations": n,
        "method": search.method,
        "searched": {key: _shown(choices) for key, choices in recipe.sweep.items()},
        "halving": _halving(recipe, n_train),
        "n_steps": work.steps,
        "real_tokens": round(plan["real_tokens"] * times),
        "model_flops": round(plan["model_flops"] * times),
        "times_one_training": round(times, 2),
        "select": search.select,
    }


def known_settings(recipe: Recipe) -> list[Settings] | None:
    """All configurations, where they do not depend on results; else None."""
    return make_search(recipe).ask() if recipe.sweep_search.method in {"grid", "random"} else None


def planned_work(recipe: Recipe, n: int, known: Sequence[Settings] | None, n_examples: int) -> Work:
    """The work of ``n`` configurations; where rungs stop some, each is taken to be as likely."""
    halving = recipe.sweep_search.halving
    sections: list[TrainSection] = [
        configuration(recipe, number, settings).train
        for number, settings in enumerate(known if known is not None else [{}])
    ]
    per_epoch = [step_count(section, n_examples)[1] for section in sections]
    before = [0] * len(sections)
    steps = epochs = 0.0
    left = n
    longest = max(epochs_of(section, n_examples) for section in sections)
    for end in [*rungs(halving, longest), math.inf]:
        reached = [
            step_count(section, n_examples)[0]
            if math.isinf(end)
            else rung_step(section, n_examples, end)
            for section in sections
        ]
        share = left / len(sections)
        made = [now - then for now, then in zip(reached, before, strict=True)]
        steps += share * sum(made)
        epochs += share * sum(part / each for part, each in zip(made, per_epoch, strict=True))
        before, left = reached, max(1, math.ceil(left / (halving.eta if halving else 1)))
    return Work(round(steps), epochs)


def _halving(recipe: Recipe, n_examples: int) -> str:
    halving = recipe.sweep_search.halving
    ends = rungs(halving, epochs_of(recipe.train, n_examples))
    if halving is None or not ends:
        return "none: every configuration trains to its end"
    after = ", ".join(f"{end:g}" for end in ends)
    return f"the best one in {halving.eta} goes on after {after} epoch{'' if ends == [1] else 's'}"


def _shown(choices: RangeSection | list[Any]) -> str:
    if isinstance(choices, RangeSection):
        return f"{choices.low:g} to {choices.high:g}{', by magnitude' if choices.log else ''}"
    return ", ".join(str(choice) for choice in choices)
