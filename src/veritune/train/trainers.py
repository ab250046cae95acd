"""What trains several configurations of one base model: a protocol with slots.

A slot holds one configuration at a time.  How slots share the work (one after the other, or
all in one forward pass) is the implementation's business; what a configuration learns does
not depend on its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from veritune.config import LoraSection, TrainSection


@dataclass(frozen=True)
class Configuration:
    """One training: an adapter, how it is optimised, and the seed of both."""

    number: int
    lora: LoraSection
    train: TrainSection
    seed: int


class Trainers(Protocol):
    """Trains as many configurations as it has slots."""

    @property
    def slots(self) -> int:
        """How many configurations train together."""

    def start(self, slot: int, configuration: Configuration) -> None:
        """Put a fresh adapter into a free slot."""

    def advance(self, steps: int) -> None:
        """Let every active slot make up to so many optimizer steps of its own schedule.

        A slot whose loss or gradient is no longer finite stops for good.
        """

    def validation_loss(self) -> dict[int, float]:
        """By active slot, the mean per supervised token; infinite where training diverged."""

    def done(self, slot: int) -> bool:
        """Whether a slot has made all its steps, or diverged."""

    def stop(self, slot: int) -> None:
        """Free a slot."""

    def state(self, slot: int) -> dict[str, torch.Tensor]:
        """All that is needed to go on later: adapter, moments, generators, position."""

    def restore(
        self, slot: int, configuration: Configuration, state: dict[str, torch.Tensor]
    ) -> None:
        """Put a configuration back into a free slot, where ``state`` left it."""

    def save(self, slot: int, folder: Path, base_name: str) -> None:
        """Write the adapter as it is now as a PEFT folder."""


@runtime_checkable
class Counted(Protocol):
    """Trainers that also count what a report prints of a training."""

    def counts(self, slot: int) -> dict[str, Any]:
        """Tokens and losses so far, under the names of a training summary.

        ``recent_training_loss`` is the mean of the steps between the last two validations.
        """
