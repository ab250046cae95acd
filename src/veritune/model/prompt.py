"""How an example becomes tokens.  The only place that words a prompt.

A prompt and its answer are tokenized apart and joined as token ids, so training sees
exactly the prompt that generation will be given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from veritune.config import ModelSection
from veritune.errors import ModelReferenceError, RecipeError
from veritune.model.load import Kind

_PLAIN_DECODER = "### Question:\n{question}\n\n### Answer:\n"
_SHOT_SEPARATOR = "\n\n"


class Question(Protocol):
    """Anything with an instruction and an input: ``Example`` and raw rows alike."""

    @property
    def instruction(self) -> str:
        """The question."""

    @property
    def input(self) -> str:
        """Its context, possibly empty."""


@dataclass(frozen=True)
class PromptFormat:
    """Words prompts and encodes pairs for one model.

    Attributes:
        kind: causal models get prompt and answer in one row, seq2seq models apart.
        chat: whether the tokenizer's chat template wraps the prompt.
        template: text with ``{question}``, ``{instruction}``, ``{input}``.
        end_id: token that ends an answer; always supervised, and what generation stops at.
    """

    tokenizer: Any
    kind: Kind
    chat: bool
    template: str
    system: str | None
    join_input: bool
    end_id: int

    def user_text(self, example: Question) -> str:
        """The question in the recipe's words, before any chat template."""
        given = example.input if self.join_input else ""
        question = f"{example.instruction}\n\n{given}" if given.strip() else example.instruction
        # One pass, so that braces and placeholders inside the data stay as they are.
        return _fill(
            self.template,
            {"question": question, "instruction": example.instruction, "input": given},
        )

    def prompt(self, example: Question, shots: Sequence[tuple[Question, str]] = ()) -> str:
        """The full prompt text; ``shots`` are (question, answer) pairs shown before it."""
        if not self.chat:
            parts = [self.user_text(shot) + answer for shot, answer in shots]
            return _SHOT_SEPARATOR.join([*parts, self.user_text(example)])
        text = self.tokenizer.apply_chat_template(
            self._messages(example, shots), add_generation_prompt=True, tokenize=False
        )
        return str(text)

    def prompts(self, examples: Sequence[Question]) -> list[str]:
        """The full prompt texts, without shots, in one call of the template."""
        if not self.chat or not examples:
            return [self.user_text(example) for example in examples]
        texts = self.tokenizer.apply_chat_template(
            [self._messages(example) for example in examples],
            add_generation_prompt=True,
            tokenize=False,
        )
        return [str(text) for text in texts]

    def _messages(
        self, example: Question, shots: Sequence[tuple[Question, str]] = ()
    ) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        for shot, answer in shots:
            messages.append({"role": "user", "content": self.user_text(shot)})
            messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": self.user_text(example)})
        return messages

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a full prompt text."""
        return self.encode_prompts([text])[0]

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of full prompt texts, in one call of the tokenizer."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts), add_special_tokens=not self.chat, return_attention_mask=False
        )["input_ids"]
        if self.kind == "seq2seq":
            return [list(ids) for ids in encoded]
        # Some tokenizers end every text with eos; a prompt must stay open.
        return [_without_end(list(ids), self.tokenizer.eos_token_id) for ids in encoded]

    def encode_answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of answers, each ending with ``end_id`` exactly once."""
        if not texts:
            return []
        encoded = self.tokenizer(
            text_target=list(texts),
            add_special_tokens=self.kind == "seq2seq",
            return_attention_mask=False,
        )["input_ids"]
        return [[*_without_end(list(ids), self.end_id), self.end_id] for ids in encoded]

    def encode_pairs(
        self, questions: Sequence[Question], answers: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, answer ids) of each pair."""
        prompts = self.encode_prompts(self.prompts(questions))
        return list(zip(prompts, self.encode_answers(answers), strict=True))


def prompt_format(
    section: ModelSection, tokenizer: Any, kind: Kind, *, join_input: bool
) -> PromptFormat:
    """Choose the wording for a model.

    Raises:
        RecipeError: chat was asked for and the tokenizer has no chat template.
        ModelReferenceError: the chat template cannot be applied.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None)) and kind == "causal"
    if section.prompt.style == "chat" and not has_template:
        raise RecipeError(
            "model.prompt.style is chat, but this model's tokenizer has no chat template",
            received=section.name,
            accepted="plain or auto for this model",
            next_step="set model.prompt.style to plain",
        )
    chat = has_template and section.prompt.style != "plain"
    template = section.prompt.template
    if template == "auto":
        template = _PLAIN_DECODER if kind == "causal" and not chat else "{question}"
    return PromptFormat(
        tokenizer=tokenizer,
        kind=kind,
        chat=chat,
        template=template,
        system=section.prompt.system,
        join_input=join_input,
        end_id=_end_of_turn(tokenizer, section) if chat else int(tokenizer.eos_token_id),
    )


def sha256_text(text: str) -> str:
    """SHA-256 of a text; lone surrogates are kept apart, never an error."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _end_of_turn(tokenizer: Any, section: ModelSection) -> int:
    """The token that the chat template itself puts after an assistant's answer."""
    marker = "veritune-answer"
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": marker}],
            tokenize=False,
        )
    except Exception as error:
        raise ModelReferenceError(
            "the model's chat template cannot be applied",
            received=f"{section.name}: {error}",
            accepted="a template for user and assistant messages",
            next_step="set model.prompt.style to plain",
        ) from error
    tail = str(rendered).partition(marker)[2]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return int(ids[0]) if ids and ids[0] in special else int(tokenizer.eos_token_id)


def _without_end(ids: list[int], end: int) -> list[int]:
    return ids[:-1] if ids and ids[-1] == end else ids


def _fill(template: str, values: dict[str, str]) -> str:
    pieces, rest = [], template
    while rest:
        positions = [(rest.find(f"{{{name}}}"), name) for name in values]
        found = sorted(item for item in positions if item[0] >= 0)
        if not found:
            break
        start, name = found[0]
        pieces += [rest[:start], values[name]]
        rest = rest[start + len(name) + 2 :]
    return "".join([*pieces, rest])
