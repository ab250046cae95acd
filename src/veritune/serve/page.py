"""The page and what it asks for: two answers side by side, running one, voting."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from veritune.compare.preference import preference
from veritune.generate.engine import BASE
from veritune.sandbox.canaries import sandbox_here
from veritune.sandbox.judge import execute
from veritune.sandbox.outcome import Execution, Job
from veritune.sandbox.policy import Policy
from veritune.score.code import is_empty, parse_failure
from veritune.score.extract import extract_code
from veritune.serve.answering import Answering, Wanted
from veritune.serve.api import ERRORS
from veritune.serve.events import HEARTBEAT, EventStream, event
from veritune.serve.faults import ApiFault, ErrorBody
from veritune.serve.nearest import NearestTraining
from veritune.serve.pairs import SIDES, Pair, Pairs
from veritune.serve.prompts import question_ids
from veritune.serve.schema import Text
from veritune.serve.service import Service
from veritune.votes import Side, add_vote, read_votes

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_PATIENCE_SECONDS = 10.0
_MOST_STDIN = 20_000
PairId = Annotated[str, Field(min_length=1, max_length=64)]


class PairAsked(BaseModel):
    """A question to both models."""

    run: Annotated[Text, Field(min_length=1, max_length=200)]
    question: Annotated[Text, Field(min_length=1, max_length=20_000)]
    blind: bool = False
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0


class RunAsked(BaseModel):
    """An answer to run, and what it reads."""

    pair: PairId
    side: Side
    stdin: Annotated[Text, Field(max_length=_MOST_STDIN)] = ""


class NearestAsked(BaseModel):
    """A pair whose nearest training question is wanted."""

    pair: PairId


class VoteAsked(BaseModel):
    """Which answer is better."""

    pair: PairId
    better: Literal["left", "right", "tie"]


def page_routes(service: Service) -> APIRouter:
    """``/``, its files, and the routes below ``/page``."""
    errors = {**ERRORS, 409: {"model": ErrorBody}}
    routes = APIRouter(responses=errors)
    pairs, nearest = Pairs(), NearestTraining()
    slots: asyncio.Queue[int] = asyncio.Queue()
    for slot in range(service.limits.runs_at_once):
        slots.put_nowait(slot)

    _add_files(routes)

    @routes.get("/page/info")
    async def info() -> dict[str, Any]:
        """What there is to ask."""
        return {
            "base": service.catalog.base,
            "engine": service.engine,
            "runs": [
                {"name": run.name, "max_tokens": _default_tokens(service, run.name)}
                for run in service.catalog.runs
            ],
            "most_tokens": service.limits.new_tokens,
        }

    @routes.get("/page/sandbox")
    async def sandbox() -> dict[str, Any]:
        """Whether answers can be run here; takes a few seconds the first time."""
        found = await asyncio.to_thread(sandbox_here)
        return {"available": found.available, "missing": found.missing}

    @routes.post("/page/pairs", response_model=None)
    async def ask(asked: PairAsked) -> Response:
        """Answer a question with base and adapted model at once, as a stream of events."""
        run = service.catalog.run_of(asked.run)
        adapted_side: Side = secrets.choice(SIDES) if asked.blind else "right"
        prompt = tuple(question_ids(run.format, asked.question))
        limit = service.new_tokens(
            run.format,
            len(prompt),
            asked.max_tokens or _default_tokens(service, run.name, len(prompt)),
        )
        systems = [run.name if side == adapted_side else BASE for side in SIDES]
        wanted = [Wanted(system, prompt, limit, asked.temperature) for system in systems]
        pair = Pair(run, asked.question, adapted_side, asked.blind, asked.temperature)
        answering = service.answering(run.format, wanted)
        return EventStream(_pair_events(pair, pairs, answering, systems), answering.release)

    @routes.post("/page/nearest")
    async def find_nearest(asked: NearestAsked) -> dict[str, Any]:
        """The training question nearest to a pair's, and how near the adapted answer is to it."""
        pair = _whole(pairs.get(asked.pair))
        if pair.names_hidden and not pair.voted:
            raise ApiFault(409, "vote first: this would tell whose answer is whose", code="blind")
        found = await asyncio.to_thread(nearest.find, pair.run, pair.question, pair.adapted_text)
        return {"nearest": found}

    @routes.post("/page/run")
    async def run_answer(asked: RunAsked) -> dict[str, Any]:
        """Run one answer of a pair in the sandbox."""
        pair = pairs.get(asked.pair)
        code = pair.codes.get(asked.side)
        if code is None:
            raise ApiFault(409, "the answer has not ended", code="conflict")
        found = await asyncio.to_thread(sandbox_here)
        if not found.available:
            raise ApiFault(503, f"no sandbox here: {found.missing}", code="sandbox_missing")
        ran = await _in_sandbox(slots, Job(code, stdin=asked.stdin))
        return {
            "outcome": ran.outcome,
            "detail": ran.detail,
            "seconds": round(ran.seconds, 3),
            "printed": ran.printed,
        }

    @routes.post("/page/votes")
    async def vote(asked: VoteAsked) -> dict[str, Any]:
        """Store which answer is better; the reply says whose was whose."""
        pair = pairs.get(asked.pair)
        cast = pair.vote(None if asked.better == "tie" else asked.better)
        pair.voted = True
        try:
            await asyncio.to_thread(add_vote, pair.run.run.votes, cast)
        except BaseException:
            pair.voted = False
            raise
        return {"names": _names(pair), **await asyncio.to_thread(_tally, pair)}

    return routes


def _add_files(routes: APIRouter) -> None:
    folder = resources.files("veritune.serve") / "static"
    for file in folder.iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is None:
            continue
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        routes.add_route(path, _file_route(file.read_bytes(), kind), include_in_schema=False)


def _file_route(content: bytes, kind: str) -> Any:
    async def send(_: Any) -> Response:
        headers = {"Cache-Control": "no-cache"}
        return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)

    return send


def _default_tokens(service: Service, name: str, n_prompt: int = 0) -> int:
    """As in the run's own evaluation, as far as there is room."""
    run = service.catalog.run_of(name)
    wanted = min(run.recipe.evaluate.max_new_tokens, service.limits.new_tokens)
    context = service.worker.context_tokens
    if context is not None and run.format.kind == "causal":
        wanted = min(wanted, max(1, context - n_prompt))
    return wanted


async def _pair_events(
    pair: Pair, pairs: Pairs, answering: Answering, systems: list[str]
) -> AsyncGenerator[str]:
    names = None if pair.names_hidden else systems
    yield event({"type": "start", "pair": pair.pair_id, "names": names})
    pairs.keep(pair)
    async for piece in answering.pieces():
        if piece is None:
            yield HEARTBEAT
            continue
        side = SIDES[piece.index]
        if piece.text:
            pair.texts[side] += piece.text
            yield event({"type": "text", "side": side, "text": piece.text})
        if piece.finish_reason is not None:
            raw = pair.texts[side]
            code = extract_code(raw)
            fault = await asyncio.to_thread(_fault_in, code)
            pair.codes[side] = code
            yield event(
                {
                    "type": "end",
                    "side": side,
                    "finish_reason": piece.finish_reason,
                    "n_tokens": piece.n_tokens,
                    "seconds": round(answering.seconds, 2),
                    "fault": fault,
                }
            )
    yield event({"type": "done"})


def _fault_in(code: str) -> str | None:
    """Why an answer is not a program, or None."""
    return "empty" if is_empty(code) else parse_failure(code)


def _whole(pair: Pair) -> Pair:
    if not pair.complete:
        raise ApiFault(409, "the answers have not ended", code="conflict")
    return pair


async def _in_sandbox(slots: asyncio.Queue[int], job: Job) -> Execution:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            slot = await slots.get()
    except TimeoutError:
        raise ApiFault(
            429, "other programs are being run; try again", code="sandbox_busy", retry_after=2
        ) from None
    # The slot comes back when the program has ended, whether or not the client is still there.
    running = asyncio.ensure_future(asyncio.to_thread(execute, job, Policy(), slot=slot))
    running.add_done_callback(lambda _: slots.put_nowait(slot))
    return await asyncio.shield(running)


def _names(pair: Pair) -> list[str]:
    return [pair.run.name if side == pair.adapted_side else BASE for side in SIDES]


def _tally(pair: Pair) -> dict[str, Any]:
    """Votes on the adapter so far."""
    try:
        votes = read_votes(pair.run.run.votes)
    except ValueError:
        return {"tally": None}
    current = [vote for vote in votes if vote.adapter_sha256 == pair.run.adapter_sha256]
    found = preference(current)
    return {
        "tally": {
            "adapted": found.n_adapted,
            "base": found.n_base,
            "ties": found.n_ties,
            "p_value": found.p_value,
            "verdict": found.verdict,
        }
    }
