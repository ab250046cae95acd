"""Adapters on disk: PEFT folders, which plain ``PeftModel.from_pretrained`` loads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from veritune.atomic import atomic_folder
from veritune.errors import ModelReferenceError
from veritune.model.lora import peft_notices

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
OURS = "default"
"""PEFT's name of the run's own adapter."""


def adapter_state(model: Any) -> dict[str, Any]:
    """The adapter's tensors under PEFT's names, detached on the CPU."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def load_adapter_state(model: Any, state: dict[str, Any]) -> None:
    """Put tensors from ``adapter_state`` back into a model with the same adapter."""
    from peft import set_peft_model_state_dict

    result: Any = set_peft_model_state_dict(model, state)
    if result.unexpected_keys:
        raise ModelReferenceError(
            "the adapter's tensors do not fit this model",
            received=f"unknown tensor {result.unexpected_keys[0]}",
            accepted="an adapter of the same base model and targets",
            next_step="name the base model the adapter was trained on",
        )


def save_adapter(model: Any, folder: Path, *, base_name: str, initial: Path | None = None) -> None:
    """Write the adapter as a PEFT folder, whole or not at all.

    Args:
        base_name: becomes ``base_model_name_or_path``.
        initial: the untrained adapter, where its initialisation moved part of the base
            weights (``REBASING_INITS``): the adapter is then converted to an ordinary LoRA
            of twice the rank, which fits the original base.
    """
    model.peft_config[OURS].base_model_name_or_path = base_name
    with atomic_folder(folder) as temporary, peft_notices():
        extra = {"path_initial_model_for_weight_conversion": str(initial)} if initial else {}
        model.save_pretrained(temporary, save_embedding_layers=False, **extra)
        for readme in temporary.glob("README.md"):
            readme.unlink()


def save_named_adapter(model: Any, name: str, folder: Path, *, base_name: str) -> None:
    """Write one of several adapters as a PEFT folder, whole or not at all."""
    model.peft_config[name].base_model_name_or_path = base_name
    with atomic_folder(folder) as temporary, peft_notices():
        model.save_pretrained(temporary, save_embedding_layers=False, selected_adapters=[name])
        inner = temporary / name
        for file in list(inner.iterdir()) if inner.is_dir() else []:
            file.rename(temporary / file.name)
        if inner.is_dir():
            inner.rmdir()
        for readme in temporary.glob("README.md"):
            readme.unlink()


def load_adapter(model: Any, folder: Path) -> Any:
    """Attach a saved adapter to its base model, frozen.

    Raises:
        ModelReferenceError: not an adapter folder, damaged, or of another base.
    """
    from peft import PeftModel

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelReferenceError(
                f"the adapter folder has no {name}",
                received=folder,
                accepted="a PEFT adapter folder (safetensors)",
                next_step="train the run first, or name another adapter",
            )
    try:
        with peft_notices():
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=False)
    except Exception as error:
        raise ModelReferenceError(
            "the adapter cannot be loaded on this base model",
            received=f"{folder}: {str(error).splitlines()[0]}",
            accepted="a whole adapter trained on this base model",
            next_step="train the run again, or name the base model it was trained on",
        ) from error
    return adapted.eval()


@contextlib.contextmanager
def activated(model: Any, name: str) -> Iterator[None]:
    """Let one of several loaded adapters act for the time of a ``with`` block, then ours."""
    model.set_adapter(name, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(OURS, inference_mode=True)
