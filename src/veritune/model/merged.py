"""The adapter folded into a copy of the base: W + (alpha / r) B A, one module at a time.

PEFT's own ``merge_adapter`` works in place, and unmerging does not give the old weights back
to the bit.  Here nothing is changed: the copy shares every tensor with the base but those
of the adapted modules, which are computed in fp32 and cast to the base's precision.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from veritune.model.adapter import OURS


def share_weights(model: Any) -> Any:
    """A second model over the very same tensors; it needs no memory of its own.

    Taken before an adapter is attached, it stays the plain base model.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


@torch.no_grad()
def own_memory(model: Any) -> None:
    """Copy weights on the CPU out of the file that they are mapped from.

    In such a file tensors begin anywhere, and reading them takes some percent longer than the
    aligned memory of a merged model: whoever compares times has both lie alike.  Models that
    share these weights share the copies.
    """
    for tensor in model.parameters():
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


@torch.no_grad()
def merged_model(plain: Any, adapted: Any) -> Any:
    """A copy of ``plain`` with the adapter of ``adapted`` folded in.

    Args:
        plain: the base model as ``share_weights`` copied it.
        adapted: the PEFT model on the same base; left as it is.
    """
    from peft.tuners.lora import LoraLayer

    merged = share_weights(plain)
    for name, layer in adapted.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer) or OURS not in layer.scaling:
            continue
        target = merged.get_submodule(name)
        weight = target.weight
        folded: Any = copy.deepcopy(layer)
        folded.float()
        folded.merge(safe_merge=True, adapter_names=[OURS])
        new = folded.get_base_layer().weight.to(weight.dtype)
        target.weight = torch.nn.Parameter(new, requires_grad=False)
    return merged.eval()
