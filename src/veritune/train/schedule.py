"""Learning-rate schedules, as a factor of the peak rate for a 0-based step."""

from __future__ import annotations

import math

from veritune.config import TrainSection


def rate_factor(section: TrainSection, step: int, n_steps: int) -> float:
    """Factor in [0, 1] for optimizer step ``step`` of ``n_steps``.

    Linear warm-up over ``warmup_steps``, then constant, linear to zero, or half a cosine
    to zero.
    """
    if step < section.warmup_steps:
        return (step + 1) / (section.warmup_steps + 1)
    span = max(1, n_steps - section.warmup_steps)
    done = min(1.0, (step - section.warmup_steps) / span)
    if section.schedule == "linear":
        return 1.0 - done
    if section.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


def step_count(section: TrainSection, n_examples: int) -> tuple[int, int]:
    """(optimizer steps of the run, optimizer steps per epoch)."""
    n_batches = math.ceil(n_examples / section.batch_size)
    per_epoch = math.ceil(n_batches / section.accumulation_steps)
    n_steps = max(1, math.ceil(round(section.epochs * per_epoch, 6)))
    if section.max_steps is not None:
        n_steps = min(n_steps, section.max_steps)
    return n_steps, per_epoch
