"""Which configuration of a sweep a run has become: kept in the manifest, read by every verb.

Once chosen, the run's recipe holds the winner's settings; the recipe the user wrote still means
this run.
"""

from __future__ import annotations

from typing import Any

from veritune.config import LoraSection, Recipe, TrainSection
from veritune.run_dir import RunDirectory

ENTRY = "sweep"

Settings = dict[str, Any]
"""The searched settings of one configuration, by dotted key."""


def swept(run: RunDirectory) -> dict[str, Any]:
    """The manifest's record of the sweep; empty if no configuration is chosen yet."""
    return dict(run.manifest().get(ENTRY, {}))


def sweep_table(run: RunDirectory) -> dict[str, Any]:
    """The choice as ``comparison.json`` holds it; empty where there was none."""
    record = swept(run)
    return {ENTRY: record} if record else {}


def with_winner(run: RunDirectory, recipe: Recipe) -> Recipe:
    """The recipe with the settings that this run chose from exactly its space."""
    record = swept(run)
    if record and recipe.sweep and record["asked"] == asked(recipe):
        return with_settings(recipe, record["settings"])
    return recipe


def asked(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides which configurations are tried and which one wins.

    How many train together changes nothing.
    """
    content = recipe.model_dump(include={"sweep", "sweep_search"})
    del content["sweep_search"]["slots"]
    return content


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with one configuration's settings in place of its own."""
    sections = {"lora": recipe.lora.model_dump(), "train": recipe.train.model_dump()}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    return recipe.model_copy(
        update={
            "lora": LoraSection.model_validate(sections["lora"]),
            "train": TrainSection.model_validate(sections["train"]),
        }
    )
