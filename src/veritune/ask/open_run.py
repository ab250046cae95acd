"""A trained run, ready to be asked."""

from __future__ import annotations

from veritune.ask.asker import Asker
from veritune.ask.conversation import ADAPTED
from veritune.ask.quick_start import quick_asker
from veritune.config import Recipe
from veritune.generate.engine import BASE
from veritune.head_start import with_meta_kernels
from veritune.pipeline.chosen_base import with_chosen
from veritune.pipeline.trained import needs_adapter, open_trained
from veritune.run_dir import RunDirectory


def open_asker(run: RunDirectory, recipe: Recipe) -> Asker:
    """Load a run's base and adapter, the short way if it is one that can go it.

    Raises:
        RunDirectoryError: the run is not trained.
        ModelReferenceError: its base or adapter cannot be loaded.
    """
    needs_adapter(run)
    recipe = with_chosen(run, recipe)
    quick = quick_asker(run, recipe, ADAPTED)
    if quick is None:
        with_meta_kernels()
    return quick or full_asker(run, recipe)


def full_asker(run: RunDirectory, recipe: Recipe) -> Asker:
    """The long way, through transformers and PEFT: every architecture, every adapter.

    Raises:
        RunDirectoryError, ModelReferenceError: as ``open_asker``.
    """
    from veritune.generate.plain import PlainEngine
    from veritune.model.hardware import choose_placement

    trained = open_trained(run, recipe, choose_placement(recipe.model))
    engine = PlainEngine(
        {BASE: trained.plain, ADAPTED: trained.adapted},
        context_tokens=trained.encoder.context_tokens,
    )
    return Asker(engine, trained.encoder.format)
