"""Answers as they leave a decoder, and how several to one prompt are drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from veritune.model.prompt import PromptFormat


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer as generated.

    Attributes:
        raw: text without special tokens.
        n_new_tokens: generated tokens, the end token included.
        finish_reason: ``stop`` if an end token came, ``length`` if the limit did.
    """

    raw: str
    n_new_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How several answers to one prompt are drawn.

    Attributes:
        n: answers a prompt.
        seed: of the draws.  With Veritune's own decoder an answer depends on it, on the prompt
            and on its number alone; with transformers' also on the batches.
    """

    n: int
    temperature: float
    top_p: float
    seed: int


def end_ids(prompt_format: PromptFormat) -> frozenset[int]:
    """The tokens that end an answer."""
    return frozenset({prompt_format.end_id, int(prompt_format.tokenizer.eos_token_id)})


def finished(row: Sequence[int], ends: Collection[int], tokenizer: Any) -> Generated:
    """An answer from its tokens; what follows an end token is padding."""
    stop = next((index for index, token in enumerate(row) if token in ends), None)
    text = tokenizer.decode(
        row if stop is None else row[:stop],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    if stop is None:
        return Generated(text, len(row), "length")
    return Generated(text, stop + 1, "stop")
