"""Pairs of answers that a page may run and vote on; only the server knows which is whose."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from veritune.serve.catalog import ServedRun
from veritune.serve.faults import ApiFault
from veritune.votes import Choice, Side, Vote

SIDES: tuple[Side, Side] = ("left", "right")
_KEPT = 512


@dataclass
class Pair:
    """Two answers to one question, left and right.

    Attributes:
        names_hidden: blind; only then is a vote worth anything.
        texts, codes: of the answers so far; whole once ``complete``.
    """

    run: ServedRun
    question: str
    adapted_side: Side
    names_hidden: bool
    temperature: float
    pair_id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    texts: dict[Side, str] = field(default_factory=lambda: {"left": "", "right": ""})
    codes: dict[Side, str] = field(default_factory=dict)
    voted: bool = False

    @property
    def complete(self) -> bool:
        """Whether both answers have ended."""
        return len(self.codes) == len(SIDES)

    @property
    def adapted_text(self) -> str:
        """The adapted model's answer."""
        return self.texts[self.adapted_side]

    def vote(self, side: Side | None) -> Vote:
        """A vote for a side, or for neither.

        Raises:
            ApiFault: the pair was not blind, has no whole answers, or was voted on.
        """
        if not self.names_hidden:
            raise _conflict("only answers whose makers were hidden can be voted on")
        if not self.complete:
            raise _conflict("the answers have not ended")
        if self.voted:
            raise _conflict("this pair was voted on")
        choice: Choice = "tie"
        if side is not None:
            choice = "adapted" if side == self.adapted_side else "base"
        base_side = SIDES[1 - SIDES.index(self.adapted_side)]
        return Vote(
            question=self.question,
            choice=choice,
            adapted_side=self.adapted_side,
            adapted=self.adapted_text,
            base=self.texts[base_side],
            adapter_sha256=self.run.adapter_sha256,
            temperature=self.temperature,
        )


class Pairs:
    """The last pairs; older ones are forgotten."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[str, Pair] = OrderedDict()

    def keep(self, pair: Pair) -> None:
        """Remember a pair."""
        self._pairs[pair.pair_id] = pair
        while len(self._pairs) > _KEPT:
            self._pairs.popitem(last=False)

    def get(self, pair_id: str) -> Pair:
        """A pair by its name.

        Raises:
            ApiFault: it is unknown or forgotten.
        """
        pair = self._pairs.get(pair_id)
        if pair is None:
            raise ApiFault(404, "these answers are no longer here; ask again", code="pair_unknown")
        return pair


def _conflict(message: str) -> ApiFault:
    return ApiFault(409, message, code="conflict")
