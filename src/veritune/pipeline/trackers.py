"""Experiment trackers named in ``report_to``, through accelerate's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from veritune.config import Recipe
from veritune.errors import EnvironmentFault, RecipeError
from veritune.train.loop import Tracker


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
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    from accelerate.utils import is_tensorboard_available

    available = {
        str(getattr(name, "value", name)): kind for name, kind in LOGGER_TYPE_TO_CLASS.items()
    }
    for name in recipe.report_to:
        if name not in available:
            raise RecipeError(
                "unknown tracker in report_to",
                received=name,
                accepted=", ".join(sorted(available)),
                next_step="correct report_to, or leave it empty",
            )
    if "tensorboard" in recipe.report_to and not is_tensorboard_available():
        raise EnvironmentFault(
            "the tracker's package is not installed",
            received="report_to: tensorboard",
            next_step="pip install tensorboard",
        )
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


def _flat(content: dict[str, object], prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            plain = isinstance(value, (str, int, float, bool))
            flat[f"{prefix}{key}"] = value if plain else str(value)  # type: ignore[assignment]
    return flat
