"""A frozen base in 8 or 4 bits, through bitsandbytes (Dettmers et al., 2022 and 2023)."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from veritune.config import ModelSection
from veritune.errors import EnvironmentFault, RecipeError
from veritune.model.hardware import Placement

FROZEN_BYTES = {"none": None, "8bit": 1.03, "4bit": 0.57}
"""Of one weight, block constants included; embeddings and norms keep their precision."""


def refuse_unusable(section: ModelSection, placement: Placement) -> None:
    """Say why a quantised base cannot be had here.

    Raises:
        RecipeError: random weights are not quantised.
        EnvironmentFault: no CUDA device, or bitsandbytes is not installed.
    """
    if section.quantization == "none":
        return
    if section.init == "random":
        raise RecipeError(
            "random weights cannot be quantised",
            received=f"model.init: random, model.quantization: {section.quantization}",
            accepted="model.quantization: none",
            next_step="--set model.quantization=none",
        )
    if placement.device.type != "cuda":
        raise EnvironmentFault(
            "a quantised base needs a CUDA device",
            received=f"model.quantization: {section.quantization} on {placement.device.type}",
            accepted="none on this machine",
            next_step="--set model.quantization=none; a smaller train.batch_size or"
            " train.activation_checkpointing=on saves memory too",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentFault(
            "bitsandbytes is not installed",
            received=f"model.quantization: {section.quantization}",
            accepted="none, or bitsandbytes in this environment",
            next_step="pip install 'veritune[quantization]'",
        )


def loading_arguments(section: ModelSection, placement: Placement) -> dict[str, Any]:
    """What ``from_pretrained`` needs for it."""
    if section.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    if section.quantization == "8bit":
        config = make(load_in_8bit=True)
    else:
        config = make(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=placement.dtype,
        )
    # Such a model is put in its place while it is read, and cannot be moved afterwards.
    index = placement.device.index
    current = torch.cuda.current_device() if index is None else index
    return {"quantization_config": config, "device_map": {"": current}}
