"""What ``veritune export --to`` can name."""

from __future__ import annotations

from dataclasses import dataclass

from veritune.errors import RecipeError


@dataclass(frozen=True)
class Format:
    """One form of an export.

    Attributes:
        precisions: values of ``--quantization``, the default first; empty where there is no
            choice.  ``base`` is the precision of the base model's own weights.
        content: one sentence on what is in the folder.
    """

    name: str
    precisions: tuple[str, ...]
    content: str


_PLAIN = ("base", "bfloat16", "float16", "float32")
_GGUF = ("f16", "q8_0", "f32")

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format("merged", _PLAIN, "the merged model as safetensors, with its tokenizer"),
        Format("peft", (), "the adapter in PEFT's format, with the base's tokenizer"),
        Format("gguf", _GGUF, "the merged model as one GGUF file, tokenizer included"),
        Format("ct2", ("float32", "int8"), "the merged model for CTranslate2"),
        Format("vllm", _PLAIN, "the merged model, and the line that serves it with vLLM"),
        Format("ollama", _GGUF, "a GGUF file and its Modelfile"),
        Format("hub-folder", _PLAIN, "the merged model and its adapter with a model card"),
    )
}

QUANTISED = frozenset({"q8_0", "int8"})
"""Precisions in which weights lose so much that the loss in answers is measured and printed."""


def precision_of(target: str, wanted: str | None) -> str:
    """The precision of an export; empty where the format has no choice.

    Raises:
        RecipeError: unknown format, or a precision that it does not have.
    """
    if target not in FORMATS:
        raise RecipeError(
            "there is no such export format",
            received=f"--to {target}",
            accepted=", ".join(FORMATS),
            next_step="name one of these",
        )
    known = FORMATS[target].precisions
    if wanted is None:
        return known[0] if known else ""
    if wanted not in known:
        raise RecipeError(
            f"{target} does not come in this precision",
            received=f"--quantization {wanted}",
            accepted=", ".join(known) or "no --quantization at all",
            next_step="leave --quantization out, or name one of these",
        )
    return wanted
