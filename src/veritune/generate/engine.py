"""What decodes many requests at once: a protocol between decoders and whoever serves them.

An engine holds one frozen base and any number of adapters on it.  Requests come and go while it
works; every ``step`` makes one more token for each request under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

BASE = "base"
"""The system that answers without any adapter."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to go on from.

    Attributes:
        request_id: unique among the requests under way.
        prompt_ids: at least one token.
        system: ``base`` or the name of one of the engine's adapters.
        max_new_tokens: at least 1, the end token included.
        end_ids: tokens that end the answer.
        temperature: 0 is greedy.
        top_p: share of the probability from which tokens are drawn; 1 is all of it.
        seed: of the draws; None draws from the operating system's randomness.
        n_logprobs: likeliest tokens to report beside each one made; 0 reports none.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    system: str
    max_new_tokens: int
    end_ids: frozenset[int]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    n_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Emitted:
    """One token made for one request.

    Attributes:
        token_id: with ``finish_reason`` ``stop`` the end token, which is no part of the text.
        logprob: natural logarithm of its probability before temperature and top_p; None where
            the engine does not give it.
        top_logprobs: (token, logprob) of the likeliest, best first.
        finish_reason: why this is the request's last token, or None.
    """

    request_id: str
    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None


@runtime_checkable
class Engine(Protocol):
    """Decodes requests together; used from one thread."""

    @property
    def systems(self) -> tuple[str, ...]:
        """``base`` and the adapters' names."""

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together, or None where there is no limit."""

    @property
    def n_active(self) -> int:
        """Requests that have been added and are neither finished nor cancelled."""

    def add(self, request: Request) -> None:
        """Take a request; it joins at the next ``step`` that has room for it.

        Raises:
            ModelReferenceError: no such system.
            DataError: the prompt is empty or leaves no room for an answer.
        """

    def cancel(self, request_id: str) -> None:
        """Forget a request; one that is unknown or finished is ignored."""

    def step(self) -> list[Emitted]:
        """Make one token for each request under way; empty when there is none."""
