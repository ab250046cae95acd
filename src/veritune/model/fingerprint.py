"""A cheap fingerprint of a base model's weights, to know again what an adapter was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

_PER_TENSOR = 64


def base_fingerprint(model: Any) -> str:
    """The fingerprint of a model's own weights.

    Args:
        model: a base model; of a PEFT model the base inside it is read, whose adapters and
            tied copies do not count.
    """
    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    return tensors_fingerprint(
        (name.replace(".base_layer.", "."), tensor)
        for name, tensor in bare.named_parameters()
        if ".lora_" not in name
    )


@torch.no_grad()
def tensors_fingerprint(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over every tensor's name, shape and up to 64 of its values, spread evenly.

    Values are compared in bf16, so the same weights loaded in fp32 have the same fingerprint.
    """
    total = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        flat = tensor.detach().reshape(-1)
        step = max(1, len(flat) // _PER_TENSOR)
        chosen = flat[::step][:_PER_TENSOR].to(torch.bfloat16).float().cpu()
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(chosen.numpy().tobytes())
    return total.hexdigest()
