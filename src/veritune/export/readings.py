"""What a model says to the gate's prompts, however it is stored and whoever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from veritune.generate.decode import decode
from veritune.model.prompt import PromptFormat
from veritune.score.metric import Array


class Reader(Protocol):
    """Runs one stored model."""

    def answers(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy answers, in order."""

    def logprobs(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Array:
        """Log-probabilities in nats at each place of an answer that it is given.

        Returns:
            Of the whole vocabulary, shape [tokens, vocabulary]; or, where a runtime does not
            give it away, of the answer's tokens alone, shape [tokens].
        """


@dataclass(frozen=True)
class Probe:
    """One question of the gate, with the adapter's greedy answer to it.

    Attributes:
        answer_ids: with the end token, if the adapter ended by itself.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    answer: str
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """One model's answers, and how likely it finds the adapter's.

    Attributes:
        logprobs: of every token of the adapter's answers, one array a probe.
        likeliest: the likeliest token at each of these places; None where it is not known.
    """

    answers: tuple[str, ...]
    logprobs: tuple[Array, ...]
    likeliest: tuple[Array, ...] | None


class HfReader:
    """A model in transformers, adapters included."""

    def __init__(self, model: Any, prompt_format: PromptFormat, *, batch_size: int) -> None:
        self._model = model
        self._format = prompt_format
        self._batch_size = batch_size

    def answers(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy answers, in order."""
        made = decode(
            self._model,
            self._format,
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=self._batch_size,
        )
        return [row.raw for row in made]

    @torch.inference_mode()
    def logprobs(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Array:
        """Log-probabilities, shape [tokens, vocabulary]."""
        device = next(self._model.parameters()).device
        prompt, answer = list(prompt_ids), list(answer_ids)
        if self._format.kind == "seq2seq":
            start = int(self._model.config.decoder_start_token_id)
            output = self._model(
                input_ids=torch.tensor([prompt], device=device),
                decoder_input_ids=torch.tensor([[start, *answer[:-1]]], device=device),
            )
            logits = output.logits[0]
        else:
            output = self._model(input_ids=torch.tensor([prompt + answer[:-1]], device=device))
            logits = output.logits[0, len(prompt) - 1 :]
        found: Array = logits.float().log_softmax(dim=-1).cpu().numpy()
        return found


def make_probes(
    reader: Reader, prompt_format: PromptFormat, prompts: Sequence[str], max_new_tokens: int
) -> list[Probe]:
    """Ask the adapter; what it answers is what every export is measured on."""
    answers = reader.answers(prompts, max_new_tokens)
    prompt_ids = prompt_format.encode_prompts(list(prompts))
    answer_ids = prompt_format.encode_answers(answers)
    rows = zip(prompts, prompt_ids, answers, answer_ids, strict=True)
    # An answer that was cut off does not end by itself: its end token is not asked for.
    return [
        Probe(prompt, tuple(ids), answer, tuple(made if len(made) <= max_new_tokens else made[:-1]))
        for prompt, ids, answer, made in rows
    ]


def read(
    reader: Reader,
    probes: Sequence[Probe],
    max_new_tokens: int,
    *,
    answers: Sequence[str] | None = None,
) -> Reading:
    """What a model says to all probes.

    Args:
        answers: its greedy answers, where they are known already.
    """
    if answers is None:
        answers = reader.answers([probe.prompt for probe in probes], max_new_tokens)
    logprobs, likeliest = [], []
    for probe in probes:
        rows = reader.logprobs(probe.prompt_ids, probe.answer_ids)
        if rows.ndim == 2:
            likeliest.append(rows.argmax(axis=-1))
            rows = rows[np.arange(len(rows)), list(probe.answer_ids)]
        logprobs.append(rows)
    return Reading(
        answers=tuple(answers),
        logprobs=tuple(logprobs),
        likeliest=tuple(likeliest) if len(likeliest) == len(probes) else None,
    )
