"""Token counts and encoded pairs for a recipe's model: the bridge from data to training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veritune.config import Recipe
from veritune.model.load import Kind, kind_of, load_config, load_tokenizer
from veritune.model.prompt import PromptFormat, Question, prompt_format
from veritune.progress import Reporter
from veritune.rows import Example
from veritune.train.batches import EncodedPair

_CHUNK = 1000
# Tokenizers without a limit of their own report a number of about 1e30.
_NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class Encoder:
    """Tokenizes a recipe's questions and answers.

    Attributes:
        context_tokens: what the model can attend to, None if unbounded (T5).
    """

    format: PromptFormat
    kind: Kind
    context_tokens: int | None

    def pairs(self, examples: Sequence[Example]) -> list[EncodedPair]:
        """Training pairs, in order."""
        encoded = self.format.encode_pairs(examples, [row.reference for row in examples])
        return [
            EncodedPair(row.example_id, tuple(source), tuple(target))
            for row, (source, target) in zip(examples, encoded, strict=True)
        ]

    def counter(self, reporter: Reporter) -> Callable[[Sequence[Any]], list[tuple[int, int]]]:
        """A callable that counts (source, target) tokens of raw rows."""

        def count(rows: Sequence[Any]) -> list[tuple[int, int]]:
            counts: list[tuple[int, int]] = []
            with reporter.task("counting tokens", len(rows)) as task:
                for start in range(0, len(rows), _CHUNK):
                    chunk = rows[start : start + _CHUNK]
                    questions: Sequence[Question] = chunk
                    for source, target in self.format.encode_pairs(
                        questions, [row.output for row in chunk]
                    ):
                        counts.append((len(source), len(target)))
                    task.advance(len(chunk))
            return counts

        return count


def make_encoder(recipe: Recipe) -> Encoder:
    """Load the tokenizer and configuration of a recipe's model (no weights)."""
    config = load_config(recipe.model)
    tokenizer = load_tokenizer(recipe.model)
    kind = kind_of(config)
    wording = prompt_format(recipe.model, tokenizer, kind, join_input=recipe.data.input == "join")
    return Encoder(wording, kind, _context_tokens(config, kind))


def _context_tokens(config: Any, kind: Kind) -> int | None:
    if kind == "seq2seq" and hasattr(config, "relative_attention_num_buckets"):
        return None
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        value = getattr(config, name, None)
        if isinstance(value, int) and 0 < value < _NO_LIMIT:
            return value
    return None
