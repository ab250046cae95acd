"""Experiment trackers named in ``report_to``, through accelerate's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from veritune.config import Recipe
from veritune.errors import EnvironmentFault, RecipeError
from veritune.train.loop import Tracker

_PACKAGES = {"comet_ml": "comet-ml"}


@contextlib.contextmanager
def open_trackers(recipe: Recipe, folder: Path) -> Iterator[Tracker | None]:
    """A callable that sends metrics to every tracker asked for, or None without any.

    Raises:
        RecipeError: a name accelerate does not know.
        EnvironmentFault: a tracker's package is not installed.
    """
    if not recipe.report_to:
        yield None
        return
    from accelerate import Accelerator

    refuse_unusable_trackers(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        accelerator = Accelerator(log_with=recipe.report_to, project_dir=folder)
        accelerator.init_trackers("veritune", config=_flat(recipe.model_dump()))
    except (ImportError, ValueError) as error:
        raise EnvironmentFault(
            "a tracker cannot start",
            received=f"report_to: {recipe.report_to}: {error}",
            accepted="trackers whose packages are installed",
            next_step=f"pip install {' '.join(recipe.report_to)}",
        ) from error
    try:
        yield lambda values, step: accelerator.log(values, step=step)
    finally:
        accelerator.end_training()


def refuse_unusable_trackers(recipe: Recipe) -> None:
    """Refuse trackers that cannot be had here.

    Raises:
        RecipeError: a name accelerate does not know.
        EnvironmentFault: a tracker's package is not installed.
    """
    if not recipe.report_to:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = [_name(kind) for kind in LOGGER_TYPE_TO_CLASS]
    # Accelerate leaves those out without a word.
    installed = [_name(kind) for kind in get_available_trackers()]
    for name in recipe.report_to:
        if name not in known:
            raise RecipeError(
                "unknown tracker in report_to",
                received=name,
                accepted=", ".join(sorted(known)),
                next_step="correct report_to, or leave it empty",
            )
        if name not in installed:
            raise EnvironmentFault(
                "the tracker's package is not installed",
                received=f"report_to: {name}",
                accepted=", ".join(installed) or "none on this machine",
                next_step=f"pip install {_PACKAGES.get(name, name)}",
            )


def _name(kind: object) -> str:
    return str(getattr(kind, "value", kind))


def _flat(content: dict[str, object], prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            plain = isinstance(value, (str, int, float, bool))
            flat[f"{prefix}{key}"] = value if plain else str(value)  # type: ignore[assignment]
    return flat
