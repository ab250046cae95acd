"""Which of several base models a run has chosen: kept in the manifest, read by every verb.

Once chosen, the run's recipe names that one model; the recipe the user wrote, with all
candidates, still means this run.
"""

from __future__ import annotations

from typing import Any

from veritune.config import Recipe
from veritune.run_dir import RunDirectory

ENTRY = "bases"


def chosen_base(run: RunDirectory) -> dict[str, Any]:
    """The manifest's record of the choice: candidates, chosen, rows; empty if there was none."""
    return dict(run.manifest().get(ENTRY, {}))


def chosen_run(run: RunDirectory) -> RunDirectory:
    """Where the chosen base was trained and answered the validation questions."""
    record = chosen_base(run)
    folder = next(row["folder"] for row in record["rows"] if row["name"] == record["chosen"])
    return RunDirectory(run.path / ENTRY / folder)


def bases_table(run: RunDirectory) -> dict[str, Any]:
    """The choice as ``comparison.json`` holds it; empty where there was none."""
    record = chosen_base(run)
    return {ENTRY: record} if record else {}


def with_chosen(run: RunDirectory, recipe: Recipe) -> Recipe:
    """The recipe with the base that this run chose from exactly its candidates."""
    record = chosen_base(run)
    if record and list(recipe.model.names) == record["candidates"]:
        return with_base(recipe, record["chosen"])
    return recipe


def with_candidates(run: RunDirectory, recipe: Recipe) -> Recipe:
    """The recipe as it was before the choice: the data are prepared for all candidates."""
    record = chosen_base(run)
    if record and recipe.model.name_or_path == record["chosen"]:
        return with_base(recipe, record["candidates"])
    return recipe


def with_base(recipe: Recipe, name_or_path: str | list[str]) -> Recipe:
    """The recipe with another base model, or several."""
    model = recipe.model.model_copy(update={"name_or_path": name_or_path})
    return recipe.model_copy(update={"model": model})
