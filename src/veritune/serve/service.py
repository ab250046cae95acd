"""What every route is handed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from veritune.model.prompt import PromptFormat
from veritune.serve.answering import Answering, Wanted
from veritune.serve.catalog import Catalog
from veritune.serve.faults import ApiFault
from veritune.serve.gauges import Gauges
from veritune.serve.limits import Limits
from veritune.serve.worker import Worker


@dataclass(frozen=True)
class Service:
    """The models, the engine's worker, and the bounds.

    Attributes:
        engine: name of the engine, as ``--engine`` knows it.
        api_key: what clients must send, None if anybody may ask.
        loopback: whether only this machine can reach the server.
    """

    catalog: Catalog
    worker: Worker
    limits: Limits = field(default_factory=Limits)
    gauges: Gauges = field(default_factory=Gauges)
    engine: str = "plain"
    api_key: str | None = None
    loopback: bool = True

    def wording(self, model: str) -> PromptFormat:
        """How a model's questions are worded.

        Raises:
            ModelReferenceError: no such model.
        """
        return self.catalog.run_of(model).format

    def answering(
        self, wording: PromptFormat, wanted: Sequence[Wanted], stops: Sequence[str] = ()
    ) -> Answering:
        """Let answers into the engine.

        Raises:
            ApiFault: there is no room, or too many are asked for at once.
        """
        if len(wanted) > self.limits.choices:
            raise ApiFault(
                400,
                f"{len(wanted)} answers in one request; at most {self.limits.choices} are made",
                code="invalid_value",
                param="n",
            )
        return Answering(
            self.worker,
            wording,
            wanted,
            stops=stops,
            limits=self.limits,
            gauges=self.gauges,
        )

    def new_tokens(self, wording: PromptFormat, n_prompt: int, wanted: int | None) -> int:
        """The limit of an answer: as wanted, else as much as there is room for.

        Raises:
            ApiFault: the prompt is empty, or leaves too little room.
        """
        if not n_prompt:
            raise ApiFault(400, "the prompt is empty", code="invalid_value", param="prompt")
        limits, context = self.limits, self.worker.context_tokens
        if wanted is not None and wanted > limits.new_tokens:
            raise ApiFault(
                400,
                f"max_tokens is {wanted}; this server makes at most {limits.new_tokens} at once",
                code="max_tokens_too_large",
                param="max_tokens",
            )
        longest = limits.prompt_tokens if context is None else context
        room = longest if wording.kind == "seq2seq" else longest - n_prompt
        too_long = n_prompt >= longest if wording.kind == "causal" else n_prompt > longest
        if too_long or (context is not None and wanted is not None and wanted > room):
            answer = f", {wanted} more for the answer" if wanted else ""
            raise ApiFault(
                400,
                f"the context holds {longest} tokens; the prompt has {n_prompt}{answer}",
                code="context_length_exceeded",
                param="max_tokens" if not too_long else "messages",
            )
        if wanted is not None:
            return wanted
        return limits.new_tokens if context is None else min(limits.new_tokens, room)
