"""The plainest engine: one forward pass per request and token, each request with its own cache.

Nothing is batched, so its answers are those of plain greedy decoding, token by token.  Each
system is a model of its own; ``share_weights`` makes that cost no memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from veritune.generate.admission import refuse_unanswerable
from veritune.generate.engine import Emitted, FinishReason, Request


@dataclass
class _Active:
    """A request under way.

    Attributes:
        pending: tokens that the model has not seen yet; the whole prompt at first.
        n_made: tokens emitted so far.
        encoded: what an encoder-decoder model made of the prompt.
    """

    request: Request
    pending: list[int]
    generator: torch.Generator | None
    n_made: int = 0
    cache: Any = None
    encoded: Any = None


class PlainEngine:
    """Decodes requests side by side without batching them; implements ``Engine``.

    Args:
        models: a model for each system, ``base`` among them; all of one architecture.
        context_tokens: most tokens of prompt and answer, None where there is no limit.
        max_active: requests that hold a cache at once; later ones wait their turn.
    """

    def __init__(
        self, models: Mapping[str, Any], *, context_tokens: int | None, max_active: int = 8
    ) -> None:
        self._models = dict(models)
        self._context_tokens = context_tokens
        self._max_active = max_active
        self._requests: dict[str, _Active] = {}
        one = next(iter(self._models.values()))
        self._is_seq2seq = bool(getattr(one.config, "is_encoder_decoder", False))
        self._keeps_last = "logits_to_keep" in inspect.signature(_bare(one).forward).parameters

    @property
    def systems(self) -> tuple[str, ...]:
        """``base`` and the adapters' names."""
        return tuple(self._models)

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together, or None where there is no limit."""
        return self._context_tokens

    @property
    def n_active(self) -> int:
        """Requests that have been added and are neither finished nor cancelled."""
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Take a request; it joins at the next ``step`` that has room for it.

        Raises:
            ModelReferenceError: no such system.
            DataError: the prompt is empty or leaves no room for an answer.
        """
        refuse_unanswerable(
            request, self.systems, context_tokens=self._context_tokens, under_way=self._requests
        )
        self._requests[request.request_id] = _Active(
            request, list(self._first_tokens(request)), self._generator(request)
        )

    def cancel(self, request_id: str) -> None:
        """Forget a request; one that is unknown or finished is ignored."""
        self._requests.pop(request_id, None)

    @torch.inference_mode()
    def step(self) -> list[Emitted]:
        """Make one token for each request under way; empty when there is none."""
        at_work = list(self._requests.values())[: self._max_active]
        emitted = [self._next(active) for active in at_work]
        for row in emitted:
            if row.finish_reason is not None:
                del self._requests[row.request_id]
        return emitted

    def _next(self, active: _Active) -> Emitted:
        request = active.request
        scores = self._logits(active)
        logprobs = scores.log_softmax(dim=-1)
        token = _draw(scores, request, active.generator)
        active.pending = [token]
        active.n_made += 1
        top: tuple[tuple[int, float], ...] = ()
        if request.n_logprobs:
            values, ids = logprobs.topk(min(request.n_logprobs, len(logprobs)))
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return Emitted(
            request_id=request.request_id,
            token_id=token,
            logprob=float(logprobs[token]),
            top_logprobs=top,
            finish_reason=self._finish(active, token),
        )

    def _finish(self, active: _Active, token: int) -> FinishReason | None:
        if token in active.request.end_ids:
            return "stop"
        in_context = active.n_made
        if not self._is_seq2seq:
            in_context += len(active.request.prompt_ids)
        limit = self._context_tokens
        full = limit is not None and in_context >= limit
        return "length" if full or active.n_made >= active.request.max_new_tokens else None

    def _logits(self, active: _Active) -> torch.Tensor:
        """Scores of the next token in fp32, shape [vocabulary]."""
        model = self._models[active.request.system]
        device = next(model.parameters()).device
        ids = torch.tensor([active.pending], device=device)
        arguments: dict[str, Any] = {"past_key_values": active.cache, "use_cache": True}
        if self._is_seq2seq:
            if active.encoded is None:
                source = torch.tensor([active.request.prompt_ids], device=device)
                active.encoded = _bare(model).get_encoder()(input_ids=source)
            arguments |= {"encoder_outputs": active.encoded, "decoder_input_ids": ids}
        else:
            arguments["input_ids"] = ids
            if self._keeps_last:
                arguments["logits_to_keep"] = 1
        output = model(**arguments)
        active.cache = output.past_key_values
        last: torch.Tensor = output.logits[0, -1].float()
        return last

    def _first_tokens(self, request: Request) -> tuple[int, ...]:
        if not self._is_seq2seq:
            return request.prompt_ids
        config = next(iter(self._models.values())).config
        return (int(config.decoder_start_token_id),)

    def _generator(self, request: Request) -> torch.Generator | None:
        if not request.temperature:
            return None
        # Draws are made on the CPU, so that a seed gives the same answer on every device.
        generator = torch.Generator()
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed)
        return generator


def _bare(model: Any) -> Any:
    """The transformers model inside PEFT's wrapper, its adapters still acting."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _draw(scores: torch.Tensor, request: Request, generator: torch.Generator | None) -> int:
    if generator is None:
        return int(scores.argmax())
    chances = (scores / request.temperature).softmax(dim=-1).cpu()
    if request.top_p < 1:
        ordered, order = chances.sort(descending=True, stable=True)
        # A token stays while those before it hold less than top_p; the first always does.
        beyond = ordered.cumsum(dim=-1) - ordered >= request.top_p
        beyond[0] = False
        chances = torch.zeros_like(chances).scatter(0, order, ordered.masked_fill(beyond, 0.0))
    return int(torch.multinomial(chances, 1, generator=generator))
