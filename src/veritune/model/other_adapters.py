"""Adapters of other makers on the same base: found, checked, and loaded beside ours.

Several adapters can share one base only if none of them changes the base itself, so what
would (trained biases, initialisations that move weights) is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veritune.errors import ModelReferenceError
from veritune.model.adapter import CONFIG, WEIGHTS
from veritune.model.lora import peft_notices
from veritune.run_dir import file_sha256

_ACCEPTED = "a run directory, or a folder with adapter_config.json and adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST_NAME = 48


@dataclass(frozen=True)
class OtherAdapter:
    """An adapter on disk that is not the run's own.

    Attributes:
        name: from its folder; unique, and safe in a file's name.
        base: ``base_model_name_or_path`` of its configuration, maybe empty.
    """

    name: str
    folder: Path
    base: str

    @property
    def files(self) -> tuple[Path, Path]:
        """What decides its answers."""
        return self.folder / CONFIG, self.folder / WEIGHTS


def find_adapters(places: Sequence[str]) -> list[OtherAdapter]:
    """The adapters that ``evaluate.adapters`` names, in order, checked but not loaded.

    Raises:
        ModelReferenceError: one is missing, pickled, damaged, or cannot share a base.
    """
    found: list[OtherAdapter] = []
    for place in places:
        folder = _folder(Path(place))
        config = _config(folder)
        # A run directory keeps its adapter in adapter/; the run's name says more.
        named = folder.parent.name if folder.name == "adapter" else folder.name
        name = _unique(named, {known.name.lower() for known in found})
        found.append(OtherAdapter(name, folder, str(config.get("base_model_name_or_path") or "")))
    return found


def attach_other(model: Any, adapter: OtherAdapter, peft_name: str, *, base: str) -> str:
    """Load an adapter beside the run's own, which stays the active one.

    Args:
        model: the PEFT model with the run's own adapter.
        peft_name: what PEFT shall call it (no dots).
        base: what the run's own base model was loaded from.

    Returns:
        A notice where the adapter names its base differently, or nothing.

    Raises:
        ModelReferenceError: it was trained on another base.
    """
    _refuse_other_base(adapter, base)
    try:
        with peft_notices():
            model.load_adapter(
                str(adapter.folder), peft_name, torch_device=str(next(model.parameters()).device)
            )
    except Exception as error:
        raise _does_not_fit(adapter, str(error).strip().splitlines()) from error
    wanted, there = _tensor_names(adapter.folder), _loaded_names(model, peft_name)
    if stray := sorted(wanted ^ there):
        known = "has" if stray[0] in wanted else "lacks"
        raise _does_not_fit(adapter, [f"it {known} {stray[0]}"])
    model.eval()
    if adapter.base and adapter.base != base:
        return (
            f"adapter {adapter.name} says its base is {adapter.base}; its tensors fit this one,"
            " and it was compared as an adapter of it"
        )
    return ""


def _folder(place: Path) -> Path:
    inside = place / "adapter"
    folder = inside if not (place / CONFIG).is_file() and inside.is_dir() else place
    if not folder.is_dir():
        raise ModelReferenceError(
            "no such adapter folder",
            received=place,
            accepted=_ACCEPTED,
            next_step="check the path, or take it out of evaluate.adapters; paths in a recipe are"
            " relative to the recipe's folder,"
            " --adapter and --set to the current one",
        )
    if not (folder / WEIGHTS).is_file():
        pickled = next((name for name in _PICKLES if (folder / name).is_file()), None)
        raise ModelReferenceError(
            f"the adapter is a pickle ({pickled}), which is never loaded"
            if pickled
            else f"the adapter folder has no {WEIGHTS}",
            received=folder,
            accepted=_ACCEPTED,
            next_step="load it where you trust it and save it again as safetensors"
            if pickled
            else "name the folder that PEFT's save_pretrained wrote, or train that run first",
        )
    return folder.absolute()


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelReferenceError(
            f"the adapter's {CONFIG} cannot be read",
            received=f"{folder}: {error}",
            accepted=_ACCEPTED,
            next_step="save the adapter again",
        ) from None
    config = config if isinstance(config, dict) else {}
    kind, bias = config.get("peft_type"), config.get("bias", "none")
    init = config.get("init_lora_weights")
    fault = ""
    if kind != "LORA":
        fault = f"is of PEFT's kind {kind}, not LORA"
    elif bias != "none":
        fault = f"trained the base's biases (bias: {bias})"
    elif init not in _HARMLESS_INITS:
        fault = f"moved the base's weights when it began (init_lora_weights: {init})"
    elif whole := sorted(name for name in _tensor_names(folder) if "lora_" not in name):
        fault = f"carries whole layers of the base ({whole[0]})"
    if fault:
        raise ModelReferenceError(
            f"the adapter {fault}, so it cannot share a base with another",
            received=folder,
            accepted="a LoRA adapter that leaves the base model as it is",
            next_step="leave it out; or compare its run's own report",
        )
    return config


def _unique(name: str, taken: set[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:_LONGEST_NAME] or "other"
    chosen, number = plain, 2
    while chosen.lower() in taken:
        chosen, number = f"{plain}-{number}", number + 1
    return chosen


def _refuse_other_base(adapter: OtherAdapter, base: str) -> None:
    """Refuse where the two names cannot mean the same weights, though shapes may agree."""
    theirs = adapter.base
    here, there = Path(base), Path(theirs)
    if not theirs or theirs == base:
        return
    if here.is_dir() and there.is_dir():
        differs = here.resolve() != there.resolve() and _weights(here) != _weights(there)
    elif here.exists() or there.exists():
        # A path here and a name there: the same model may have both.
        return
    else:
        both_ids = _HUB_ID.fullmatch(base) and _HUB_ID.fullmatch(theirs)
        differs = bool(both_ids) and base.lower() != theirs.lower()
    if differs:
        raise ModelReferenceError(
            "the adapter belongs to another base model",
            received=f"{adapter.folder}, trained on {theirs}",
            accepted=f"adapters of {base}",
            next_step="leave it out, or evaluate it in a run of its own base",
        )


def _weights(folder: Path) -> list[tuple[str, str]]:
    files = sorted(folder.glob("*.safetensors"))
    return [(file.name, file_sha256(file)) for file in files]


def _does_not_fit(adapter: OtherAdapter, lines: list[str]) -> ModelReferenceError:
    why = next((line.strip() for line in lines if "size mismatch" in line), None)
    return ModelReferenceError(
        "the adapter does not fit this base model",
        received=f"{adapter.folder}: {why or (lines[0] if lines else 'unreadable')}",
        accepted="an adapter trained on the run's own base model",
        next_step="leave it out, or evaluate it in a run of its own base",
    )


def _tensor_names(folder: Path) -> set[str]:
    from safetensors import safe_open

    opened: Any = safe_open
    try:
        with opened(folder / WEIGHTS, framework="pt") as file:
            return set(file.keys())
    except Exception as error:
        raise ModelReferenceError(
            "the adapter's weights cannot be read",
            received=f"{folder / WEIGHTS}: {str(error).splitlines()[0]}",
            accepted="whole safetensors files",
            next_step="copy or save the adapter again",
        ) from error


def _loaded_names(model: Any, peft_name: str) -> set[str]:
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=peft_name, save_embedding_layers=False)
    return set(state)
