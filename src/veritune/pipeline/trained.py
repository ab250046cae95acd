"""A trained run, opened to be used: its base, its adapter, and its way of asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from veritune.config import Recipe
from veritune.errors import ModelReferenceError, RunDirectoryError
from veritune.model.adapter import WEIGHTS, load_adapter
from veritune.model.fingerprint import base_fingerprint
from veritune.model.hardware import Placement
from veritune.model.load import LoadedModel, load_model
from veritune.model.merged import share_weights
from veritune.pipeline.chosen_base import with_chosen
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.run_dir import RunDirectory


@dataclass(frozen=True)
class TrainedRun:
    """One run's models over one set of weights.

    Attributes:
        plain: the base alone.
        adapted: the PEFT model on it.
    """

    run: RunDirectory
    recipe: Recipe
    encoder: Encoder
    loaded: LoadedModel
    plain: Any
    adapted: Any


def needs_adapter(run: RunDirectory) -> None:
    """Refuse a run that has not been trained.

    Raises:
        RunDirectoryError: it has no adapter.
    """
    if not (run.adapter / WEIGHTS).is_file():
        raise RunDirectoryError(
            "the run has no adapter yet",
            received=run.path,
            accepted="a run directory after `veritune train`",
            next_step=f"veritune train {run.path}",
        )


def open_trained(run: RunDirectory, recipe: Recipe, placement: Placement) -> TrainedRun:
    """Load a run's base and adapter; writes nothing.

    Raises:
        RunDirectoryError: the run is not trained.
        ModelReferenceError: the base cannot be loaded, is not the one that the adapter was
            trained on, or the adapter is damaged.
    """
    needs_adapter(run)
    recipe = with_chosen(run, recipe)
    loaded = load_model(recipe.model, placement, seed=recipe.seed)
    refuse_another_base(run, loaded)
    plain = share_weights(loaded.model)
    adapted = load_adapter(loaded.model, run.adapter)
    return TrainedRun(run, recipe, make_encoder(recipe), loaded, plain, adapted)


def refuse_another_base(run: RunDirectory, loaded: LoadedModel) -> None:
    """Refuse weights other than those the adapter was trained on.

    Runs of older versions recorded no fingerprint; of them only the shapes are checked.

    Raises:
        ModelReferenceError: they are others.
    """
    recorded = dict(run.manifest().get("model", {}))
    known = recorded.get("fingerprint")
    if known and known != base_fingerprint(loaded.model):
        raise ModelReferenceError(
            "the adapter was trained on another base model",
            received=f"{loaded.reference.name}, whose weights are not those of training",
            accepted=f"the weights of {recorded.get('name')} as they were when the run was trained",
            next_step="restore the base model, or train the run again on this one",
        )
