"""The merged model as one GGUF file, written with the ``gguf`` package.

llama.cpp turns the halves of each rotated pair of Llama's queries and keys next to each other,
so their rows are permuted on the way; Qwen2 is rotated as it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from veritune.errors import ModelReferenceError
from veritune.export.gguf_rotation import TENSOR, divisors, is_stretched
from veritune.export.gguf_tokenizer import write_tokenizer
from veritune.model.prompt import PromptFormat

ARCHITECTURES = ("llama", "qwen2")
_KEPT_IN_F32 = 1  # vectors (norms, biases) are small and sensitive


def refuse_unknown(config: Any) -> None:
    """Refuse what this writer does not know, before anything is computed.

    Raises:
        ModelReferenceError: another architecture, or a rotation stretched in another way.
    """
    name = str(config.model_type)
    rope = dict(getattr(config, "rope_parameters", None) or {})
    kind = str(rope.get("rope_type", "default"))
    if name not in ARCHITECTURES:
        raise ModelReferenceError(
            "GGUF export does not know this architecture",
            received=name,
            accepted=", ".join(ARCHITECTURES),
            next_step="export --to merged, and convert it with llama.cpp's own tools",
        )
    if kind != "default" and not is_stretched(config):
        raise ModelReferenceError(
            "GGUF export does not know this model's rotary scaling",
            received=f"rope_type {kind}",
            accepted="rope_type default, or a Llama's llama3",
            next_step="export --to merged, and convert it with llama.cpp's own tools",
        )


def write_gguf(
    merged: Any, prompt_format: PromptFormat, path: Path, *, precision: str, name: str
) -> None:
    """Write weights, shape, tokenizer and chat template.

    Args:
        merged: the model, best in fp32.
        precision: ``f32``, ``f16`` or ``q8_0``, of the matrices; a matrix whose rows do not
            divide into blocks of 32 stays in f16.
        name: ``general.name``.

    Raises:
        ModelReferenceError: the architecture or the tokenizer is not known.
    """
    import gguf

    config = merged.config
    refuse_unknown(config)
    writer = gguf.GGUFWriter(path, str(config.model_type))
    try:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(name)
        _write_shape(writer, config)
        writer.add_file_type(
            {
                "f32": gguf.LlamaFileType.ALL_F32,
                "f16": gguf.LlamaFileType.MOSTLY_F16,
                "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
            }[precision]
        )
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        write_tokenizer(writer, prompt_format, int(config.vocab_size))
        if is_stretched(config):
            writer.add_tensor(TENSOR, divisors(merged))
        for tensor_name, array in _tensors(merged):
            kind = _kind(array, precision)
            writer.add_tensor(tensor_name, gguf.quantize(array, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _write_shape(writer: Any, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config.vocab_size)


def _tensors(merged: Any) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(GGUF's name, values in fp32) of every tensor; a tied output layer is left out."""
    import gguf

    config = merged.config
    architecture = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}
    names = gguf.get_tensor_name_map(architecture[str(config.model_type)], config.num_hidden_layers)
    permuted = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in merged.named_parameters():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelReferenceError(
                "GGUF export does not know one of this model's tensors",
                received=name,
                accepted="the tensors of a plain Llama or Qwen2",
                next_step="export --to merged, and convert it with llama.cpp's own tools",
            )
        values = parameter.detach().float().cpu()
        module = name.split(".")[-2]
        if config.model_type == "llama" and module in permuted:
            values = _interleaved(values, permuted[module])
        yield found, values.numpy()


def _interleaved(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Put row i of a head's second half after row i of its first, shape [out, …] as given."""
    half = weight.shape[0] // n_heads // 2
    split = weight.reshape(n_heads, 2, half, *weight.shape[1:])
    return split.transpose(1, 2).reshape(weight.shape).contiguous()


def _kind(array: npt.NDArray[np.float32], precision: str) -> Any:
    import gguf

    kinds = gguf.GGMLQuantizationType
    if precision == "f32" or array.ndim == _KEPT_IN_F32:
        return kinds.F32
    block, _ = gguf.GGML_QUANT_SIZES[kinds.Q8_0]
    return kinds.Q8_0 if precision == "q8_0" and array.shape[-1] % block == 0 else kinds.F16
