"""Which token comes next, for each row by its own settings.

A sampled token is the inverse of the cumulative distribution at one uniform number, and the
numbers of a request come from its own seed: neighbours in the batch change nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from veritune.generate.engine import Request

_NUCLEUS = 512
"""Likeliest tokens that are looked at first; all are sorted only where these fall short."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A token with the logarithms of the probabilities of it and of the likeliest."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def draws_of(request: Request) -> np.random.Generator | None:
    """The uniform numbers of one request; None where it is greedy."""
    if request.temperature == 0:
        return None
    seed = secrets.randbits(128) if request.seed is None else request.seed
    return np.random.default_rng(abs(seed) * 2 + (seed < 0))


def choose(
    logits: torch.Tensor,
    requests: Sequence[Request],
    draws: Sequence[np.random.Generator | None],
    *,
    logprobs: bool,
) -> list[Choice]:
    """One token for each row of ``logits`` ``[n, vocabulary]``.

    Args:
        logprobs: whether to give each token's; a request that asks for the likeliest gets it.
    """
    # The reduction over bf16 is slower than a copy; fp32 is also what ties are broken in.
    wide = logits.to(torch.float32)
    tokens = wide.argmax(-1).tolist()
    for row, (request, numbers) in enumerate(zip(requests, draws, strict=True)):
        if numbers is not None:
            tokens[row] = _drawn(wide[row], request, float(numbers.random()))
    asked = [row for row, request in enumerate(requests) if logprobs or request.n_logprobs]
    if not asked:
        return [Choice(token) for token in tokens]
    part = wide if len(asked) == len(requests) else wide[asked]
    totals = part.logsumexp(-1)
    picked = torch.tensor([tokens[row] for row in asked], device=part.device)
    own = (part.gather(1, picked.unsqueeze(1)).squeeze(1) - totals).tolist()
    tops = _likeliest(part, totals, [requests[row].n_logprobs for row in asked])
    found = dict(zip(asked, zip(own, tops, strict=True), strict=True))
    return [Choice(token, *found.get(row, (None, ()))) for row, token in enumerate(tokens)]


def _likeliest(
    logits: torch.Tensor, totals: torch.Tensor, counts: Sequence[int]
) -> list[tuple[tuple[int, float], ...]]:
    most = min(max(counts), logits.shape[1])
    if most == 0:
        return [() for _ in counts]
    values, tokens = logits.topk(most, -1)
    values = values - totals.unsqueeze(1)
    rows = zip(tokens.tolist(), values.tolist(), counts, strict=True)
    return [tuple(zip(ids[:n], found[:n], strict=True)) for ids, found, n in rows]


def _drawn(logits: torch.Tensor, request: Request, uniform: float) -> int:
    """One token of ``softmax(logits / temperature)``, of its likeliest ``top_p`` share."""
    p = torch.softmax(logits / request.temperature, -1)
    if request.top_p >= 1:
        total = p.cumsum(-1, dtype=torch.float64)
        return _at(total, uniform)
    values, tokens = p.topk(min(_NUCLEUS, len(p)))
    total = values.cumsum(-1, dtype=torch.float64)
    if float(total[-1]) < request.top_p:
        values, tokens = p.sort(descending=True, stable=True)
        total = values.cumsum(-1, dtype=torch.float64)
    # A token stays as long as those before it have less than the share; the first always does.
    kept = 1 + int((total[:-1] < request.top_p).sum())
    return int(tokens[_at(total[:kept], uniform)])


def _at(total: torch.Tensor, uniform: float) -> int:
    """The first place where the cumulative weights exceed their ``uniform`` share."""
    wanted = total[-1] * uniform
    place = int(torch.searchsorted(total, wanted, right=True))
    return min(place, len(total) - 1)
