"""Conversations become token ids, in the words the adapter was trained on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veritune.model.prompt import PromptFormat
from veritune.serve.faults import ApiFault
from veritune.serve.schema import Message


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in the form that ``PromptFormat`` words."""

    instruction: str
    input: str = ""


_LONG_CHARACTERS = 20_000


async def encoded(n_characters: int, encode: Callable[[], list[int]]) -> list[int]:
    """Tokens of a prompt; a long one is read in a thread, so that other clients need not wait."""
    return encode() if n_characters < _LONG_CHARACTERS else await asyncio.to_thread(encode)


def chat_ids(wording: PromptFormat, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation.

    Every turn of the user is worded as the run's questions were.  Models without a chat
    template see earlier turns as worked examples, and system messages above the question.

    Raises:
        ApiFault: the roles do not alternate, or the chat template refuses them.
    """
    if wording.chat:
        return wording.encode_prompt(_chat_text(wording, messages))
    system = "\n\n".join(row.text for row in messages if row.role in ("system", "developer"))
    turns = [row for row in messages if row.role not in ("system", "developer")]
    if any(row.role != ("user", "assistant")[place % 2] for place, row in enumerate(turns)):
        raise _roles("user and assistant must take turns, the user first")
    shots = [
        (Asked(question.text), answer.text)
        for question, answer in zip(turns[:-1:2], turns[1::2], strict=True)
    ]
    text = wording.prompt(Asked(turns[-1].text), shots)
    return wording.encode_prompt(f"{system}\n\n{text}" if system else text)


def question_ids(wording: PromptFormat, question: str) -> list[int]:
    """Token ids of one question, exactly as in training and evaluation."""
    return wording.encode_prompt(wording.prompt(Asked(question)))


def completion_ids(wording: PromptFormat, prompt: str | list[int]) -> list[int]:
    """Token ids of a bare prompt, without any template.

    Raises:
        ApiFault: a token is beyond the vocabulary.
    """
    if isinstance(prompt, str):
        return wording.encode_prompt(prompt)
    size = len(wording.tokenizer)
    if max(prompt) >= size:
        message = f"token {max(prompt)} is beyond the vocabulary of {size}"
        raise ApiFault(400, message, code="invalid_value", param="prompt")
    return prompt


def _chat_text(wording: PromptFormat, messages: Sequence[Message]) -> str:
    rows: list[dict[str, Any]] = []
    for message in messages:
        role = "system" if message.role == "developer" else message.role
        text = message.text
        if role == "user":
            text = wording.user_text(Asked(text))
        rows.append({"role": role, "content": text})
    if wording.system is not None and all(row["role"] != "system" for row in rows):
        rows.insert(0, {"role": "system", "content": wording.system})
    try:
        text = wording.tokenizer.apply_chat_template(
            rows, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # noqa: BLE001 - templates raise whatever they like
        raise _roles(f"the model's chat template refuses these messages: {error}") from None
    return str(text)


def _roles(message: str) -> ApiFault:
    return ApiFault(400, message[:300], code="invalid_value", param="messages")
