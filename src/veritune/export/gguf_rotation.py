"""Llama 3's stretched rotary embedding in GGUF: what each frequency is divided by.

llama.cpp multiplies no formula out: it reads a tensor of one divisor for each pair of
dimensions.  transformers reads these files without it, so for reading back it is put in here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

TENSOR = "rope_freqs.weight"
STRETCHED = "llama3"


def is_stretched(config: Any) -> bool:
    """Whether a Llama's rotation is stretched as Llama 3's is."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    return config.model_type == "llama" and rope.get("rope_type") == STRETCHED


def divisors(model: Any) -> npt.NDArray[np.float32]:
    """What the model's plain frequencies are divided by, shape [head_dim / 2]."""
    used: torch.Tensor = model.model.rotary_emb.inv_freq.detach().double().cpu()
    places = torch.arange(len(used), dtype=torch.float64) / len(used)
    plain = model.config.rope_parameters["rope_theta"] ** -places
    found: npt.NDArray[np.float32] = (plain / used).float().numpy()
    return found


def stretch_as_stored(model: Any, path: Path) -> None:
    """Give a model that transformers read from a GGUF file the rotation stored in it."""
    import gguf

    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == TENSOR:
            rotation = model.model.rotary_emb
            stored = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
            rotation.inv_freq = rotation.inv_freq / stored.to(rotation.inv_freq.device)
