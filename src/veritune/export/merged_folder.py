"""The merged model as a folder that ``from_pretrained`` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from veritune.model.merged import merged_model, share_weights
from veritune.pipeline.trained import TrainedRun

MARK = "veritune_merged_adapter_sha256"
"""Entry of ``config.json`` that says which adapter is folded in already."""


def merged_in_fp32(trained: TrainedRun) -> Any:
    """The merged model; what it adds to the base is computed in fp32."""
    return merged_model(trained.plain, trained.adapted)


def write_merged(
    merged: Any, trained: TrainedRun, folder: Path, *, dtype: torch.dtype, adapter_sha256: str
) -> None:
    """Write weights, configuration, tokenizer, chat template and generation settings.

    Args:
        merged: left as it is.
        dtype: of the weights on disk.
    """
    cast = _cast(merged, dtype)
    cast.config = type(merged.config).from_dict(merged.config.to_dict())
    cast.config.dtype = dtype
    setattr(cast.config, MARK, adapter_sha256)
    _settle_generation(cast, trained)
    cast.save_pretrained(folder)
    trained.encoder.format.tokenizer.save_pretrained(folder)


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """A copy in another precision; tied weights stay tied, and the model stays as it is."""
    copied = share_weights(model)
    known: dict[int, torch.nn.Parameter] = {}
    for module in copied.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_floating_point():
                continue
            if id(parameter) not in known:
                new = parameter.detach().to(dtype)
                known[id(parameter)] = torch.nn.Parameter(new, requires_grad=False)
            module._parameters[name] = known[id(parameter)]
    return copied


def _settle_generation(model: Any, trained: TrainedRun) -> None:
    """End answers where the adapter learned to end them, and decode greedily by default."""
    import transformers

    wording = trained.encoder.format
    tokenizer = wording.tokenizer
    ends = sorted({wording.end_id, int(tokenizer.eos_token_id)})
    old = model.generation_config
    configuration: Any = transformers.GenerationConfig
    model.generation_config = configuration(
        bos_token_id=old.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=int(tokenizer.pad_token_id),
        decoder_start_token_id=old.decoder_start_token_id,
        do_sample=False,
    )
