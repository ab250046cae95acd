"""Answers in OpenAI's words."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from veritune.generate.engine import Emitted
from veritune.serve.answering import Answering, Piece

Decode = Callable[[int], str]


def new_id(prefix: str) -> str:
    """A name for one answer."""
    return f"{prefix}-{secrets.token_hex(12)}"


def usage(answering: Answering) -> dict[str, int]:
    """Token counts; those of an answer include its end token."""
    prompt, completion = answering.prompt_tokens, answering.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


@dataclass
class ChatReply:
    """Chat completions, whole or in chunks.

    Args:
        top: likeliest tokens to list, None for no probabilities at all.
    """

    model: str
    decode: Decode
    top: int | None
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, index: int) -> dict[str, Any]:
        """The chunk that says who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One piece of one answer."""
        delta = {"content": piece.text} if piece.text else {}
        return self._chunk(piece.index, delta, piece)

    def closing(self, answering: Answering) -> dict[str, Any]:
        """The chunk with the token counts."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(answering)}

    def whole(self, answers: list[list[Piece]], answering: Answering) -> dict[str, Any]:
        """All answers at once."""
        choices = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": "".join(piece.text for piece in pieces),
                    "refusal": None,
                },
                "logprobs": self._logprobs([row for piece in pieces for row in piece.tokens]),
                "finish_reason": pieces[-1].finish_reason,
            }
            for index, pieces in enumerate(answers)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage(answering)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(
        self, index: int, delta: dict[str, Any], piece: Piece | None = None
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(list(piece.tokens)) if piece else None,
            "finish_reason": piece.finish_reason if piece else None,
        }
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _logprobs(self, tokens: list[Emitted]) -> dict[str, Any] | None:
        known = [row for row in tokens if row.logprob is not None]
        if self.top is None or not known:
            return None
        content = [
            {
                **self._token(row.token_id, row.logprob),
                "top_logprobs": [self._token(*pair) for pair in row.top_logprobs[: self.top]],
            }
            for row in known
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        return {"token": self.decode(token_id), "logprob": _finite(logprob), "bytes": None}


@dataclass
class TextReply:
    """Text completions, whole or in chunks; both have the same shape."""

    model: str
    decode: Decode
    top: int | None
    id: str = field(default_factory=lambda: new_id("cmpl"))
    created: int = field(default_factory=lambda: int(time.time()))
    _offsets: dict[int, int] = field(default_factory=dict)

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One piece of one answer."""
        return {**self._head(), "choices": [self._choice(piece.index, [piece])]}

    def closing(self, answering: Answering) -> dict[str, Any]:
        """The chunk with the token counts."""
        return {**self._head(), "choices": [], "usage": usage(answering)}

    def whole(self, answers: list[list[Piece]], answering: Answering) -> dict[str, Any]:
        """All answers at once."""
        choices = [self._choice(index, pieces) for index, pieces in enumerate(answers)]
        return {**self._head(), "choices": choices, "usage": usage(answering)}

    def _head(self) -> dict[str, Any]:
        kind: Literal["text_completion"] = "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        return {
            "index": index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs(index, [row for piece in pieces for row in piece.tokens]),
            "finish_reason": pieces[-1].finish_reason,
        }

    def _logprobs(self, index: int, tokens: list[Emitted]) -> dict[str, Any] | None:
        known = [row for row in tokens if row.logprob is not None]
        if self.top is None or not known:
            return None
        offsets, place = [], self._offsets.get(index, 0)
        texts = [self.decode(row.token_id) for row in known]
        for text in texts:
            offsets.append(place)
            place += len(text)
        self._offsets[index] = place
        return {
            "tokens": texts,
            "token_logprobs": [_finite(row.logprob) for row in known],
            "top_logprobs": [
                {
                    self.decode(token): _finite(logprob)
                    for token, logprob in row.top_logprobs[: self.top]
                }
                for row in known
            ],
            "text_offset": offsets,
        }


def _finite(logprob: float | None) -> float | None:
    """JSON has no infinity; OpenAI writes -9999 for what cannot happen."""
    if logprob is None or math.isnan(logprob):
        return None
    return max(logprob, -9999.0)
