"""The merged model for CTranslate2, and CTranslate2 run on it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veritune.errors import EnvironmentFault, ModelReferenceError
from veritune.model.prompt import PromptFormat
from veritune.score.metric import Array

_INSTALL = "pip install 'veritune[ct2]'"


def need_ctranslate2() -> Any:
    """The package, or a clear word that it is missing.

    Raises:
        EnvironmentFault: it is not installed.
    """
    try:
        import ctranslate2
        import ctranslate2.converters
    except ImportError:
        raise EnvironmentFault(
            "CTranslate2 is not installed",
            received="no module named ctranslate2",
            accepted="the package ctranslate2",
            next_step=_INSTALL,
        ) from None
    return ctranslate2


def convert(source: Path, target: Path, *, precision: str) -> None:
    """Convert a folder of weights and tokenizer.

    Raises:
        ModelReferenceError: CTranslate2 does not know the architecture.
    """
    ctranslate2 = need_ctranslate2()
    converter = ctranslate2.converters.TransformersConverter(str(source))
    try:
        # transformers' loading bar goes to stderr, where ours is.
        with contextlib.redirect_stderr(io.StringIO()):
            converter.convert(str(target), quantization=precision, force=True)
    except ValueError as error:
        raise ModelReferenceError(
            "CTranslate2 cannot convert this model",
            received=str(error),
            accepted="an architecture that CTranslate2 knows, such as Llama, Qwen2 or T5",
            next_step="use the merged model with another engine",
        ) from error


def name_missing_tokens(folder: Path, stand_in: str) -> None:
    """Give the special tokens that a tokenizer lacks a name, which CTranslate2 insists on.

    Args:
        stand_in: a token that never stands in a question, such as the padding.
    """
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    filled = {
        name: stand_in if value is None and name.endswith("_token") else value
        for name, value in content.items()
    }
    path.write_text(json.dumps(filled, indent=2) + "\n", encoding="utf-8")


class CTranslate2Reader:
    """Runs a converted folder with CTranslate2 on the CPU, in the precision it is stored in."""

    def __init__(self, folder: Path, prompt_format: PromptFormat, *, threads: int) -> None:
        ctranslate2 = need_ctranslate2()
        self._format = prompt_format
        self._tokenizer = prompt_format.tokenizer
        kind = ctranslate2.Translator if self._is_seq2seq else ctranslate2.Generator
        self._model = kind(
            str(folder),
            device="cpu",
            inter_threads=1,
            intra_threads=threads,
            compute_type="default",
        )

    @property
    def _is_seq2seq(self) -> bool:
        return self._format.kind == "seq2seq"

    def answers(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy answers, in order."""
        ends = sorted({self._format.end_id, int(self._tokenizer.eos_token_id)})
        given = [self._tokens(ids) for ids in self._format.encode_prompts(list(prompts))]
        if self._is_seq2seq:
            found = self._model.translate_batch(
                given, beam_size=1, max_decoding_length=max_new_tokens, end_token=ends
            )
            made = [self._tokenizer.convert_tokens_to_ids(row.hypotheses[0]) for row in found]
        else:
            found = self._model.generate_batch(
                given,
                beam_size=1,
                sampling_topk=1,
                max_length=max_new_tokens,
                end_token=ends,
                include_prompt_in_result=False,
            )
            made = [row.sequences_ids[0] for row in found]
        return [
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for ids in made
        ]

    def logprobs(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Array:
        """Of the whole vocabulary; of the answer's tokens alone for encoder-decoder models."""
        answer = list(answer_ids)
        if self._is_seq2seq:
            return self._of_answer(prompt_ids, answer)
        row = [*prompt_ids, *answer[:-1]]
        view = self._model.forward_batch([self._tokens(row)], return_log_probs=True)
        found: Array = np.array(view)[0, len(prompt_ids) - 1 :]
        return found

    def _of_answer(self, prompt_ids: Sequence[int], answer: list[int]) -> Array:
        # CTranslate2 closes every target by itself, so an end token is not handed in twice.
        closed = answer[-1] == int(self._tokenizer.eos_token_id)
        body = answer[:-1] if closed else answer
        (scored,) = self._model.score_batch(
            [self._tokens(prompt_ids)], [self._tokens(body)], max_input_length=0
        )
        return np.array(scored.log_probs[: len(answer)], dtype=np.float64)

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        tokens: list[str] = self._tokenizer.convert_ids_to_tokens(list(ids))
        return tokens
