"""One client's request under way: from tokens of several answers to pieces of text."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from veritune.generate.engine import Emitted, FinishReason, Request
from veritune.model.prompt import PromptFormat
from veritune.serve.faults import ApiFault
from veritune.serve.gauges import Gauges
from veritune.serve.limits import Limits
from veritune.serve.text import Detokenizer, StopAt
from veritune.serve.worker import Worker

HEARTBEAT_SECONDS = 10.0
_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer that somebody wants.

    Attributes:
        system: ``base`` or a run's name.
        n_logprobs: None where no probabilities are asked for.
    """

    system: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    n_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A little more of one answer.

    Attributes:
        index: which answer.
        tokens: those the text came from, the end token left out.
        n_tokens: made so far, the end token included.
    """

    index: int
    text: str
    tokens: tuple[Emitted, ...]
    n_tokens: int
    finish_reason: FinishReason | None = None


class _Answer:
    """The text of one answer as it grows."""

    def __init__(self, index: int, tokenizer: object, stops: Sequence[str]) -> None:
        self._index = index
        self._detokenizer = Detokenizer(tokenizer)
        self._stop_at = StopAt(stops)
        self.n_tokens = 0
        self.over = False

    def add(self, emitted: Emitted) -> Piece:
        self.n_tokens += 1
        ends = emitted.finish_reason == "stop"
        text = "" if ends else self._stop_at.add(self._detokenizer.add(emitted.token_id))
        if emitted.finish_reason is not None and not self._stop_at.found:
            text += self._stop_at.add(self._detokenizer.end())
            text += self._stop_at.end()
        reason = "stop" if self._stop_at.found else emitted.finish_reason
        self.over = reason is not None
        return Piece(self._index, text, () if ends else (emitted,), self.n_tokens, reason)


class Answering:
    """Several answers to one client, let into the engine together.

    Must be released, whatever happens; that cancels what is not finished.

    Raises:
        ApiFault: there is no room in the queue, or the server is to stop.
    """

    def __init__(
        self,
        worker: Worker,
        wording: PromptFormat,
        wanted: Sequence[Wanted],
        *,
        stops: Sequence[str],
        limits: Limits,
        gauges: Gauges,
    ) -> None:
        ends = frozenset({wording.end_id, int(wording.tokenizer.eos_token_id)})
        requests = [
            Request(
                request_id=f"answer-{next(_NUMBERS)}",
                prompt_ids=want.prompt_ids,
                system=want.system,
                max_new_tokens=want.max_new_tokens,
                end_ids=ends,
                temperature=want.temperature,
                top_p=want.top_p,
                seed=want.seed,
                n_logprobs=0 if want.n_logprobs is None else max(1, want.n_logprobs),
            )
            for want in wanted
        ]
        self._worker = worker
        self._limits = limits
        self._gauges = gauges
        self._answers = {
            request.request_id: _Answer(index, wording.tokenizer, stops)
            for index, request in enumerate(requests)
        }
        self._batch = worker.submit(requests)
        self._reason = "cancelled"
        self.prompt_tokens = sum(len(ids) for ids in {want.prompt_ids for want in wanted})
        gauges.tokens.labels("prompt").inc(self.prompt_tokens)

    @property
    def completion_tokens(self) -> int:
        """Made so far, end tokens included."""
        return sum(answer.n_tokens for answer in self._answers.values())

    @property
    def seconds(self) -> float:
        """Since admission."""
        return time.monotonic() - self._batch.started

    async def pieces(self) -> AsyncIterator[Piece | None]:
        """Pieces of every answer as they come; None now and then while there is nothing.

        Raises:
            ApiFault: the time is over, the engine failed, or the server stops.
        """
        while not all(answer.over for answer in self._answers.values()):
            tokens = await self._next()
            if tokens is None:
                yield None
                continue
            if not self.completion_tokens:
                self._gauges.first_token_seconds.observe(self.seconds)
            for emitted in tokens:
                piece = self._piece(emitted)
                if piece is not None and (piece.text or piece.tokens or piece.finish_reason):
                    yield piece
        self._gauges.answer_seconds.observe(self.seconds)

    async def _next(self) -> list[Emitted] | None:
        left = self._limits.request_seconds - self.seconds
        try:
            async with asyncio.timeout(max(0.0, min(HEARTBEAT_SECONDS, left))):
                return await self._batch.next()
        except TimeoutError:
            if left > HEARTBEAT_SECONDS:
                return None
            self._reason = "timeout"
            raise ApiFault(
                408,
                f"no whole answer within {self._limits.request_seconds:g} s; ask for fewer tokens",
                code="timeout",
            ) from None
        except ApiFault:
            self._reason = "failed"
            raise

    def _piece(self, emitted: Emitted) -> Piece | None:
        answer = self._answers[emitted.request_id]
        if answer.over:
            # Made in the step in which a stop string was found.
            return None
        piece = answer.add(emitted)
        self._gauges.tokens.labels("completion").inc()
        if piece.finish_reason is not None:
            self._gauges.answers.labels(piece.finish_reason).inc()
            self._worker.cancel(emitted.request_id)
        return piece

    def release(self) -> None:
        """Cancel what is not finished."""
        for request in self._batch.requests:
            self._worker.cancel(request.request_id)
            answer = self._answers[request.request_id]
            if not answer.over:
                answer.over = True
                self._gauges.answers.labels(self._reason).inc()
