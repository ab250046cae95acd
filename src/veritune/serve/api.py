"""``/v1``: the interface that OpenAI's clients speak."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from veritune.generate.engine import BASE
from veritune.model.prompt import PromptFormat
from veritune.serve.answering import Answering, Piece, Wanted
from veritune.serve.events import DONE, HEARTBEAT, EventStream, event, unless_gone
from veritune.serve.faults import ErrorBody
from veritune.serve.prompts import chat_ids, completion_ids, encoded
from veritune.serve.replies import ChatReply, Decode, TextReply
from veritune.serve.schema import ChatRequest, CompletionRequest, Sampling
from veritune.serve.service import Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody}
    for status in (400, 401, 403, 404, 405, 408, 413, 415, 429, 499, 500, 503)
}
_DEFAULT_TEMPERATURE = 1.0


def api_routes(service: Service) -> APIRouter:
    """The routes below ``/v1``."""
    routes = APIRouter(prefix="/v1", responses=ERRORS)

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """Every model that can be asked: the base and one for each run."""
        return {"object": "list", "data": [_model(service, name) for name in _names(service)]}

    @routes.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        service.catalog.run_of(name)
        return _model(service, name)

    @routes.post("/chat/completions", response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        wording = service.wording(asked.model)
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        size = sum(len(message.text) for message in asked.messages)
        prompt = await encoded(size, lambda: chat_ids(wording, asked.messages))
        wanted = _wanted(
            service, wording, asked, [prompt], new_tokens=asked.new_tokens, n_logprobs=top
        )
        answering = service.answering(wording, wanted, asked.stops)
        reply = ChatReply(asked.model, _decoder(wording), top)
        if asked.stream:
            events = _chat_events(reply, answering, len(wanted), asked.with_usage)
            return EventStream(events, answering.release)
        return await _whole(request, reply, answering, len(wanted))

    @routes.post("/completions", response_model=None)
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """Go on from bare prompts."""
        wording = service.wording(asked.model)
        prompts = [
            await encoded(len(prompt), lambda prompt=prompt: completion_ids(wording, prompt))  # type: ignore[misc]
            for prompt in asked.prompts[: service.limits.choices + 1]
        ]
        wanted = _wanted(
            service, wording, asked, prompts, new_tokens=asked.max_tokens, n_logprobs=asked.logprobs
        )
        answering = service.answering(wording, wanted, asked.stops)
        reply = TextReply(asked.model, _decoder(wording), asked.logprobs)
        if asked.stream:
            events = _text_events(reply, answering, asked.with_usage)
            return EventStream(events, answering.release)
        return await _whole(request, reply, answering, len(wanted))

    return routes


def _names(service: Service) -> tuple[str, ...]:
    return service.catalog.names


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.catalog.created,
        "owned_by": "veritune",
        "root": service.catalog.base,
        "parent": None if name == BASE else BASE,
        "max_model_len": service.worker.context_tokens,
    }


def _wanted(
    service: Service,
    wording: PromptFormat,
    asked: Sampling,
    prompts: list[list[int]],
    *,
    new_tokens: int | None,
    n_logprobs: int | None,
) -> list[Wanted]:
    """Every answer of a request: ``n`` to each prompt, each with a seed of its own."""
    temperature = _DEFAULT_TEMPERATURE if asked.temperature is None else asked.temperature
    wanted: list[Wanted] = []
    for prompt in prompts:
        limit = service.new_tokens(wording, len(prompt), new_tokens)
        for _ in range(asked.n or 1):
            seed = None if asked.seed is None else (asked.seed + len(wanted)) % 2**63
            wanted.append(
                Wanted(
                    system=asked.model,
                    prompt_ids=tuple(prompt),
                    max_new_tokens=limit,
                    temperature=temperature,
                    top_p=1.0 if asked.top_p is None else asked.top_p,
                    seed=seed,
                    n_logprobs=n_logprobs,
                )
            )
    return wanted


def _decoder(wording: PromptFormat) -> Decode:
    def decode(token_id: int) -> str:
        return str(wording.tokenizer.decode([token_id]))

    return decode


async def _whole(
    request: Request, reply: ChatReply | TextReply, answering: Answering, n_answers: int
) -> Response:
    """Every answer, collected."""
    answers: list[list[Piece]] = [[] for _ in range(n_answers)]

    async def collect() -> None:
        async for piece in answering.pieces():
            if piece is not None:
                answers[piece.index].append(piece)

    try:
        await unless_gone(request, collect())
    finally:
        answering.release()
    return JSONResponse(reply.whole(answers, answering))


async def _chat_events(
    reply: ChatReply, answering: Answering, n_answers: int, with_usage: bool
) -> AsyncGenerator[str]:
    for index in range(n_answers):
        yield event(reply.opening(index))
    async for piece in answering.pieces():
        yield HEARTBEAT if piece is None else event(reply.chunk(piece))
    if with_usage:
        yield event(reply.closing(answering))
    yield DONE


async def _text_events(
    reply: TextReply, answering: Answering, with_usage: bool
) -> AsyncGenerator[str]:
    async for piece in answering.pieces():
        yield HEARTBEAT if piece is None else event(reply.chunk(piece))
    if with_usage:
        yield event(reply.closing(answering))
    yield DONE
