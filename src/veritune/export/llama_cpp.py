"""llama.cpp run on a GGUF file, where its Python package is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from veritune.errors import GateFailed
from veritune.model.prompt import PromptFormat
from veritune.score.metric import Array

HOW_TO_INSTALL = "pip install llama-cpp-python"


def has_llama_cpp() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


class LlamaCppReader:
    """Reads one GGUF file; prompts are cut into tokens by llama.cpp itself.

    Args:
        n_context: most tokens of prompt and answer.
    """

    def __init__(
        self, path: Path, prompt_format: PromptFormat, *, n_context: int, threads: int
    ) -> None:
        import llama_cpp

        self._model = llama_cpp.Llama(
            str(path),
            n_ctx=n_context,
            n_batch=n_context,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            verbose=False,
        )
        self._format = prompt_format
        self._ends = {prompt_format.end_id, int(prompt_format.tokenizer.eos_token_id)}

    def close(self) -> None:
        """Give the memory back."""
        self._model.close()

    def refuse_other_tokens(self, prompts: Sequence[str]) -> None:
        """Check that llama.cpp cuts the prompts into the tokens the adapter was trained on.

        Raises:
            GateFailed: it does not.
        """
        for prompt, wanted in zip(prompts, self._format.encode_prompts(prompts), strict=True):
            found = self._tokens(prompt)
            if found != wanted:
                raise GateFailed(
                    "llama.cpp cuts a prompt into other tokens than the model was trained on",
                    received=f"{found[:20]} for {wanted[:20]}",
                    accepted="the same tokens",
                    next_step="export --to merged, and report this tokenizer",
                )

    def answers(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy answers, in order."""
        return [self._answer(prompt, max_new_tokens) for prompt in prompts]

    def logprobs(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Array:
        """Log-probabilities, shape [tokens, vocabulary]."""
        row = [*prompt_ids, *answer_ids[:-1]]
        self._model.reset()
        self._model.eval(row)
        logits = np.array(self._model.scores[len(prompt_ids) - 1 : len(row)], dtype=np.float64)
        top = logits.max(axis=-1, keepdims=True)
        found: Array = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
        return found

    def _answer(self, prompt: str, max_new_tokens: int) -> str:
        ids = self._tokens(prompt)
        made: list[int] = []
        self._model.reset()
        self._model.eval(ids)
        while len(made) < max_new_tokens:
            token = int(np.argmax(self._model.scores[len(ids) + len(made) - 1]))
            if token in self._ends:
                break
            made.append(token)
            if len(made) < max_new_tokens:
                self._model.eval([token])
        text: str = self._format.tokenizer.decode(
            made, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _tokens(self, prompt: str) -> list[int]:
        adds = not self._format.chat
        found = self._model.tokenize(prompt.encode(), add_bos=adds, special=True)
        return [int(token) for token in found]
