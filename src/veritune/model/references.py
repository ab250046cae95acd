"""What ``model.name_or_path`` can name: the bundled model, a GGUF file, a folder, the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veritune.config import BUNDLED_MODEL, ModelSection
from veritune.errors import ModelReferenceError

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_ACCEPTED = f"a hub id (owner/name), a model folder, a .gguf file, or {BUNDLED_MODEL}"


@dataclass(frozen=True)
class Reference:
    """A resolved model reference.

    Attributes:
        location: what transformers' ``from_pretrained`` is given.
        revision: hub revision, None for anything local.
        gguf_file: file name inside ``location`` when the weights are GGUF.
        notice: something the user should know, or empty.
    """

    kind: Literal["bundled", "gguf", "folder", "hub"]
    name: str
    location: str
    revision: str | None = None
    gguf_file: str | None = None
    notice: str = ""

    @property
    def load_arguments(self) -> dict[str, str]:
        """Keyword arguments that every ``from_pretrained`` shares."""
        arguments = {}
        if self.revision:
            arguments["revision"] = self.revision
        if self.gguf_file:
            arguments["gguf_file"] = self.gguf_file
        return arguments


def resolve_reference(section: ModelSection) -> Reference:
    """Say what ``model.name_or_path`` means, without loading anything.

    Raises:
        ModelReferenceError: it names nothing, or a file of a kind that is not accepted.
    """
    name = section.name
    notice = (
        f"model.revision {section.revision} is ignored: {name} is local" if section.revision else ""
    )
    if name.startswith("bundled:"):
        if name != BUNDLED_MODEL:
            raise ModelReferenceError(
                "unknown bundled model", received=name, accepted=BUNDLED_MODEL, next_step="use it"
            )
        return Reference("bundled", name, "", notice=notice)
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path, section)
        return Reference("folder", name, str(path), notice=notice)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return Reference("gguf", name, str(path.parent), gguf_file=path.name, notice=notice)
    if path.exists():
        raise ModelReferenceError(
            "this file is not a model Veritune loads"
            " (weights are safetensors or GGUF, never pickle)",
            received=name,
            accepted=_ACCEPTED,
            next_step="name the folder that holds config.json and model.safetensors",
        )
    if name.startswith((".", "/", "~")) or path.suffix.lower() == ".gguf":
        raise ModelReferenceError(
            "no such model folder or file",
            received=name,
            accepted=_ACCEPTED,
            next_step="check the path; paths in a recipe are relative to the recipe's folder",
        )
    if not _HUB_ID.match(name):
        raise ModelReferenceError(
            "this is neither a path nor a hub id",
            received=name,
            accepted=_ACCEPTED,
            next_step="correct model.name_or_path",
        )
    return Reference("hub", name, name, revision=section.revision)


def _check_folder(path: Path, section: ModelSection) -> None:
    if not (path / "config.json").is_file():
        hint = ""
        if (path / "adapter_config.json").is_file():
            hint = " (it holds an adapter; name its base model)"
        raise ModelReferenceError(
            f"the folder has no config.json{hint}",
            received=path,
            accepted="a folder as save_pretrained writes it",
            next_step="name the folder of the base model",
        )
    weights = [item for item in path.iterdir() if item.suffix == ".safetensors"]
    if section.init == "pretrained" and not weights:
        pickled = [item.name for item in path.iterdir() if item.suffix in (".bin", ".pt", ".pth")]
        raise ModelReferenceError(
            "the folder has no safetensors weights"
            + (f"; {pickled[0]} is a pickle, which is never loaded" if pickled else ""),
            received=path,
            accepted="model.safetensors beside config.json",
            next_step="convert the weights to safetensors, or set model.init to random"
            " for an untrained architecture",
        )
