"""Continuous batching: requests join and leave between tokens, and never wait for each other.

Every step makes one token for each row.  A row that ends gives its slot to the next request,
whose prompt is read in the same step; rows of the base and of any adapter stand together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from veritune.generate.admission import refuse_unanswerable, room_for_answer
from veritune.generate.captured import CapturedStep, Graph, Step, cuda_graph
from veritune.generate.choose import choose, draws_of
from veritune.generate.engine import BASE, Emitted, FinishReason, Request
from veritune.generate.row_products import owner_of
from veritune.generate.runners import base_of, open_runner, peft_names

N_SLOTS = 16
_PROMPT_TOKENS = 4096
"""Tokens of prompts that are read in one pass, unless one prompt alone is longer."""
_ROUND = 64
"""Slots grow by multiples of this many tokens."""


@dataclass
class _Row:
    """One request under way."""

    request: Request
    system: int
    token: int
    position: int
    source: int
    limit: int
    draws: np.random.Generator | None
    made: int = 0


@dataclass
class _Waiting:
    request: Request
    system: int
    limit: int
    needs: tuple[int, int] = field(default=(0, 0))


class ContinuousEngine:
    """Implements ``engine.Engine`` for Llama-like decoders and T5.

    Args:
        model: a base model, or a PEFT model with its adapters attached; in evaluation mode.
        adapters: names of the systems, each with PEFT's name of its adapter; by default all
            of PEFT's, under its names.
        n_slots: most rows under way at once; further requests wait.
        context_tokens: most tokens of prompt and answer together; None is no limit.
        max_cached_tokens: most tokens whose keys and values are kept, over all slots, each
            slot as long as the longest; None is no limit.
        logprobs: whether every token comes with the logarithm of its probability.
        graph: records steps by shape, see ``CapturedStep``; by default CUDA graphs on CUDA and
            plain steps elsewhere.

    Raises:
        EnvironmentFault: the model is none that this engine knows; see ``runners.why_not``.
    """

    def __init__(
        self,
        model: Any,
        *,
        adapters: Mapping[str, str] | None = None,
        n_slots: int = N_SLOTS,
        context_tokens: int | None = None,
        max_cached_tokens: int | None = None,
        logprobs: bool = False,
        graph: Graph | None = None,
    ) -> None:
        names = {n: n for n in peft_names(model)} if adapters is None else dict(adapters)
        self._runner = open_runner(model, list(names.values()), n_slots)
        base = base_of(model)
        self._systems = (BASE, *names)
        self._vocabulary = int(base.get_input_embeddings().weight.shape[0])
        self._n_slots = n_slots
        self._context = context_tokens
        self._budget = max_cached_tokens
        limits = [n for n in (context_tokens, max_cached_tokens) if n is not None]
        self._longest = min(limits) if limits else None
        self._logprobs = logprobs
        if graph is None and self._runner.slots.device.type == "cuda":
            graph = cuda_graph()
        self._graph = graph
        self._step: Step = self._runner.step
        self._rows: list[_Row] = []
        self._waiting: deque[_Waiting] = deque()
        self._known: set[str] = set()

    @property
    def systems(self) -> tuple[str, ...]:
        """``base`` and the adapters' names."""
        return self._systems

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together, or None where there is no limit."""
        return self._context

    @property
    def n_active(self) -> int:
        """Requests that have been added and are neither finished nor cancelled."""
        return len(self._known)

    def add(self, request: Request) -> None:
        """Take a request; it joins at the next ``step`` that has room for it.

        Raises:
            ModelReferenceError: no such system.
            DataError: the prompt is empty, leaves no room for an answer, or is under way.
        """
        refuse_unanswerable(
            request,
            self._systems,
            context_tokens=self._longest,
            under_way=self._known,
            vocabulary=self._vocabulary,
        )
        limit = room_for_answer(request, self._longest)
        needs = self._runner.needs(len(request.prompt_ids), limit)
        system = self._systems.index(request.system)
        self._known.add(request.request_id)
        self._waiting.append(_Waiting(request, system, limit, needs))

    def cancel(self, request_id: str) -> None:
        """Forget a request; one that is unknown or finished is ignored."""
        if request_id not in self._known:
            return
        for waiting in self._waiting:
            if waiting.request.request_id == request_id:
                self._waiting.remove(waiting)
                self._known.remove(request_id)
                return
        for slot, row in enumerate(self._rows):
            if row.request.request_id == request_id:
                with torch.inference_mode():
                    self._leave([slot])
                return

    @torch.inference_mode()
    def step(self) -> list[Emitted]:
        """Make one token for each request under way; empty when there is none."""
        self._join()
        if not self._rows:
            return []
        rows, runner = self._rows, self._runner
        runner.slots.fill(
            [row.token for row in rows],
            [row.position for row in rows],
            [row.system for row in rows],
            [row.source for row in rows],
        )
        only = owner_of([row.system for row in rows])
        logits = self._step(len(rows), 1 + max(row.position for row in rows), only)
        choices = choose(
            logits,
            [row.request for row in rows],
            [row.draws for row in rows],
            logprobs=self._logprobs,
        )
        emitted, ended = [], []
        for slot, (row, choice) in enumerate(zip(rows, choices, strict=True)):
            row.made += 1
            row.token, row.position = choice.token, row.position + 1
            reason: FinishReason | None = None
            if choice.token in row.request.end_ids:
                reason = "stop"
            elif row.made >= row.limit:
                reason = "length"
            if reason is not None:
                ended.append(slot)
            emitted.append(
                Emitted(row.request.request_id, choice.token, choice.logprob, choice.top, reason)
            )
        self._leave(ended)
        return emitted

    def _join(self) -> None:
        """Give free slots to those who wait longest, as far as memory goes."""
        joined: list[_Waiting] = []
        while self._waiting and len(self._rows) + len(joined) < self._n_slots:
            if not self._fits(self._wanted([*joined, self._waiting[0]])):
                break
            joined.append(self._waiting.popleft())
        if not joined:
            return
        self._reserve(joined)
        first = len(self._rows)
        part: list[int] = []
        for number, waiting in enumerate(joined):
            prompt = waiting.request.prompt_ids
            token, position = self._runner.first(prompt)
            source = len(prompt) if self._runner.is_seq2seq else 0
            self._rows.append(
                _Row(
                    waiting.request,
                    waiting.system,
                    token,
                    position,
                    source,
                    waiting.limit,
                    draws_of(waiting.request),
                )
            )
            part.append(first + number)
            following = joined[number + 1].request.prompt_ids if number + 1 < len(joined) else None
            tokens = sum(len(self._rows[slot].request.prompt_ids) for slot in part)
            if following is None or tokens + len(following) > _PROMPT_TOKENS:
                rows = [self._rows[slot] for slot in part]
                self._runner.read_prompts(
                    part, [row.request.prompt_ids for row in rows], [row.system for row in rows]
                )
                part = []

    def _fits(self, shape: tuple[int, int, int]) -> bool:
        n_slots, own, source = shape
        return self._budget is None or n_slots * (own + source) <= self._budget

    def _wanted(self, joined: list[_Waiting]) -> tuple[int, int, int]:
        needs = [w.needs for w in joined]
        needs += [self._runner.needs(len(row.request.prompt_ids), row.limit) for row in self._rows]
        return len(needs), max(own for own, _ in needs), max(source for _, source in needs)

    def _reserve(self, joined: list[_Waiting]) -> None:
        """Grow where it must: with room for more if that fits, else by as much as is needed."""
        wanted = self._wanted(joined)
        have = self._runner.room
        if all(h >= w for h, w in zip(have, wanted, strict=True)):
            return
        most = tuple(max(h, w) for h, w in zip(have, wanted, strict=True))
        n_slots = min(self._n_slots, max(wanted[0], 2 * have[0]))
        roomy = (n_slots, *(-(-tokens // _ROUND) * _ROUND for tokens in most[1:]))
        shapes: list[Any] = [roomy, most, wanted]
        self._runner.reserve(*next(shape for shape in shapes if self._fits(shape)))
        if self._graph is not None:
            # What was recorded reads the buffers that have just moved.
            n_slots, capacity, _ = self._runner.room
            self._step = CapturedStep(self._runner.step, n_slots, capacity, self._graph)

    def _leave(self, ended: Sequence[int]) -> None:
        """Take rows out; the last ones move into their slots."""
        for slot in sorted(ended, reverse=True):
            self._known.remove(self._rows[slot].request.request_id)
            last = self._rows.pop()
            if slot == len(self._rows):
                continue
            self._runner.move(len(self._rows), slot, last.position, last.source)
            self._rows[slot] = last
