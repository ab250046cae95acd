"""The whole recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from veritune.config.data import DataSection
from veritune.config.evaluation import EvaluateSection
from veritune.config.model import ModelSection
from veritune.config.section import Section
from veritune.config.sweep import Space, SweepSearchSection
from veritune.config.training import LoraSection, TrainSection

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What every generator takes: Python's, numpy's and torch's."""


class Recipe(Section):
    """A whole run, from raw rows to a report."""

    output_dir: str = Field(
        "runs/default", min_length=1, pattern=r"^[^\x00]+$", description="is the run directory"
    )
    seed: Seed = 0
    seeds: list[Seed] = Field(
        default_factory=list,
        description="training seeds, the first for the main adapter; empty: only seed."
        " The split of the data always uses seed",
    )
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    lora: LoraSection = LoraSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    sweep: Space = Field(
        default_factory=dict,
        description="settings that `veritune sweep` tries, each with a list of values, or with"
        " low, high and log; such as lora.r: [2, 4, 8]",
    )
    sweep_search: SweepSearchSection = SweepSearchSection()
    report_to: list[str] = Field(
        default_factory=list,
        description="accelerate trackers: tensorboard, wandb, mlflow, trackio, …",
    )

    @property
    def training_seed(self) -> int:
        """The seed that trains the main adapter."""
        return self.seeds[0] if self.seeds else self.seed

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is named twice, but the same training twice is no evidence")
        return seeds
