"""Successive halving: after how many epochs who is judged, and who goes on.

All configurations of a generation reach a rung before it is judged, so who goes on does not
depend on how many train together (Jamieson and Talwalkar 2016, arXiv 1502.07943).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from veritune.config import HalvingSection, TrainSection
from veritune.train.schedule import step_count


def rungs(section: HalvingSection | None, longest_epochs: float) -> list[float]:
    """Epochs after which configurations are judged, rising, below the longest training."""
    found: list[float] = []
    epochs = section.min_epochs if section else math.inf
    while section and epochs < longest_epochs - 1e-9:
        found.append(epochs)
        epochs *= section.eta
    return found


def survivors(losses: Mapping[int, float], earlier: Sequence[float], eta: int) -> list[int]:
    """Who goes on from a rung, by number: the best one in ``eta`` of all that ever reached it.

    Args:
        losses: by number, of the generation that is judged.
        earlier: of generations before, at the same rung; those judged then are not judged again.

    Ties go to the lower number, and to earlier ones.  An infinite loss never goes on.
    """
    ranked = sorted([(loss, -1) for loss in earlier] + [(loss, n) for n, loss in losses.items()])
    room = max(1, math.ceil(len(ranked) / eta))
    return sorted(n for loss, n in ranked[:room] if n >= 0 and math.isfinite(loss))


def round_steps(section: TrainSection, n_examples: int) -> int:
    """Optimizer steps between two validations."""
    _, per_epoch = step_count(section, n_examples)
    return section.eval_steps or per_epoch


def rung_step(section: TrainSection, n_examples: int, epochs: float) -> int:
    """The step of the first validation at or after so many epochs, at most the last step."""
    n_steps, per_epoch = step_count(section, n_examples)
    every = round_steps(section, n_examples)
    return min(n_steps, every * math.ceil(round(epochs * per_epoch / every, 6)))


def epochs_of(section: TrainSection, n_examples: int) -> float:
    """How many epochs a training has, ``max_steps`` heeded."""
    n_steps, per_epoch = step_count(section, n_examples)
    return n_steps / per_epoch
