"""The systems compared: each answers the same examples, only the means differ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from veritune.config import EvaluateSection
from veritune.generate.decode import Sampling, decode, decoder_of
from veritune.generate.retrieval import NearestQuestions
from veritune.model.adapter import activated
from veritune.model.prompt import PromptFormat, sha256_text
from veritune.progress import Reporter
from veritune.rows import Example, Prediction

RETRIEVAL = "retrieval"
# Folded, or trained as a whole: no adapter is left to switch.
PLAIN_MODELS: frozenset[str] = frozenset({"merged", "full_finetune"})
ADAPTER_PREFIX = "adapter:"
"""Opens the names of systems that are other adapters."""


def _copies(sampling: Sampling | None) -> int:
    return 1 if sampling is None else sampling.n


class Systems:
    """Answers examples with any of the systems.

    Args:
        model: the PEFT model; ``baseline`` and ``few_shot`` are the same loaded weights
            with the adapter disabled.  None if only ``retrieval`` is asked.
        others: PEFT's name of the adapter of each ``adapter:NAME`` system.
        train: training examples, for few-shot prompts and retrieval.
        extract: takes the program out of a raw answer.
    """

    def __init__(
        self,
        model: Any,
        prompt_format: PromptFormat,
        section: EvaluateSection,
        train: Sequence[Example],
        *,
        seed: int,
        extract: Callable[[str], str],
        reporter: Reporter,
        context_tokens: int | None = None,
        others: Mapping[str, str] | None = None,
    ) -> None:
        self._model = model
        self._format = prompt_format
        self._section = section
        self._train = list(train)
        self._seed = seed
        self._extract = extract
        self._reporter = reporter
        self._context_tokens = context_tokens
        self._others = dict(others or {})
        self._index: NearestQuestions | None = None

    def answer(
        self, system: str, examples: Sequence[Example], sampling: Sampling | None = None
    ) -> list[Prediction]:
        """One greedy answer per example, or several sampled ones (``sample_index`` from 1)."""
        if system == RETRIEVAL:
            return self._retrieve(examples)
        prompts = self._prompts(system, examples)
        with (
            self._weights_of(system),
            self._reporter.task(f"answers of {system}", len(examples) * _copies(sampling)) as task,
        ):
            tokens = 0

            def count(answers: int, new_tokens: int) -> None:
                nonlocal tokens
                tokens += new_tokens
                task.advance(answers, f"{tokens:,} new tokens")

            generated = decode(
                self._model,
                self._format,
                prompts,
                max_new_tokens=self._section.max_new_tokens,
                batch_size=self._section.batch_size,
                on_done=count,
                sampling=sampling,
            )
        asked = list(zip(examples, prompts, strict=True))
        numbers = [0] if sampling is None else range(1, sampling.n + 1)
        copies = [(number, *pair) for pair in asked for number in numbers]
        return [
            Prediction(
                example_id=example.example_id,
                system=system,
                seed=self._seed,
                sample_index=number,
                prompt=prompt,
                prompt_sha256=sha256_text(prompt),
                raw=answer.raw,
                code=self._extract(answer.raw),
                n_new_tokens=answer.n_new_tokens,
                finish_reason=answer.finish_reason,
            )
            for (number, example, prompt), answer in zip(copies, generated, strict=True)
        ]

    def decoder(self, system: str) -> str | None:
        """Whose decoder answers for a system, or None where no model does."""
        if system == RETRIEVAL:
            return None
        with self._weights_of(system):
            return decoder_of(self._model)

    def _weights_of(self, system: str) -> contextlib.AbstractContextManager[None]:
        if system == "adapted" or system in PLAIN_MODELS:
            return contextlib.nullcontext()
        if system.startswith(ADAPTER_PREFIX):
            return activated(self._model, self._others[system])
        disabled: contextlib.AbstractContextManager[None] = self._model.disable_adapter()
        return disabled

    def _prompts(self, system: str, examples: Sequence[Example]) -> list[str]:
        if system != "few_shot":
            return [self._format.prompt(example) for example in examples]
        return [
            self._fitting(example, shots)
            for example, shots in zip(examples, self._shots(examples), strict=True)
        ]

    def _fitting(self, example: Example, shots: list[Example]) -> str:
        """The prompt with as many shots as the context window holds."""
        while True:
            prompt = self._format.prompt(example, [(shot, shot.reference) for shot in shots])
            if not shots or self._context_tokens is None:
                return prompt
            room = self._context_tokens - self._section.max_new_tokens
            if len(self._format.encode_prompt(prompt)) <= room:
                return prompt
            shots = shots[1:]

    def _shots(self, examples: Sequence[Example]) -> list[list[Example]]:
        k = min(self._section.few_shot.k, len(self._train))
        if self._section.few_shot.choose == "bm25":
            # The nearest stands last, next to the question.
            return [
                [shot for shot, _ in reversed(found)]
                for found in self._nearest().nearest(examples, k)
            ]
        # From the shorter half, so that one long answer does not crowd the prompt.
        by_length = sorted(self._train, key=lambda row: (len(row.reference), row.example_id))
        pool = by_length[: max(k, (len(by_length) + 1) // 2)]
        chosen = np.random.default_rng([self._seed, 3]).choice(len(pool), size=k, replace=False)
        return [[pool[index] for index in chosen if pool[index] != example] for example in examples]

    def _retrieve(self, examples: Sequence[Example]) -> list[Prediction]:
        found = self._nearest().nearest(examples, 1)
        predictions = []
        for example, nearest in zip(examples, found, strict=True):
            answer = nearest[0][0].reference if nearest else ""
            prompt = self._format.user_text(example)
            predictions.append(
                Prediction(
                    example_id=example.example_id,
                    system="retrieval",
                    seed=self._seed,
                    sample_index=0,
                    prompt=prompt,
                    prompt_sha256=sha256_text(prompt),
                    raw=answer,
                    code=answer,
                    n_new_tokens=0,
                    finish_reason="retrieved",
                )
            )
        return predictions

    def _nearest(self) -> NearestQuestions:
        if self._index is None:
            self._index = NearestQuestions(self._train, join_input=self._format.join_input)
        return self._index
