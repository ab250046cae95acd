"""CTranslate2 as an engine: one merged model beside its base, in fp32 on the CPU.

An adapter cannot be switched in a converted model, so the run is merged, and base and merged
model are converted and loaded apart.  Requests are answered one after the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veritune.errors import DataError
from veritune.export.ctranslate import convert, name_missing_tokens, need_ctranslate2
from veritune.generate.admission import refuse_unanswerable, room_for_answer
from veritune.generate.engine import Emitted, FinishReason, Request
from veritune.model.adapter import load_adapter
from veritune.model.merged import merged_model, share_weights


@dataclass
class _Active:
    request: Request
    steps: Iterator[Any] | None = None
    made: int = 0


class CTranslate2Engine:
    """Implements ``engine.Engine`` with converted decoder models.

    Args:
        generators: a ``ctranslate2.Generator`` for each system, ``base`` among them.
        tokenizer: whose tokens they speak.
    """

    def __init__(
        self, generators: Mapping[str, Any], tokenizer: Any, *, context_tokens: int | None
    ) -> None:
        self._generators = dict(generators)
        self._tokenizer = tokenizer
        self._context = context_tokens
        self._requests: dict[str, _Active] = {}

    @property
    def systems(self) -> tuple[str, ...]:
        """``base`` and the merged run's name."""
        return tuple(self._generators)

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together, or None where there is no limit."""
        return self._context

    @property
    def n_active(self) -> int:
        """Requests that have been added and are neither finished nor cancelled."""
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Take a request; it begins when those before it have ended.

        Raises:
            ModelReferenceError: no such system.
            DataError: the prompt is empty or too long, or a seed is asked for.
        """
        refuse_unanswerable(
            request, self.systems, context_tokens=self._context, under_way=self._requests
        )
        if request.seed is not None and request.temperature:
            raise DataError(
                "CTranslate2 has no seed of a single request",
                received=f"seed {request.seed}",
                accepted="temperature 0, or no seed",
            )
        self._requests[request.request_id] = _Active(request)

    def cancel(self, request_id: str) -> None:
        """Forget a request; one that is unknown or finished is ignored."""
        active = self._requests.pop(request_id, None)
        if active is not None and active.steps is not None:
            active.steps.close()  # type: ignore[attr-defined]

    def step(self) -> list[Emitted]:
        """Make one token for the request whose turn it is; empty when there is none."""
        if not self._requests:
            return []
        active = next(iter(self._requests.values()))
        if active.steps is None:
            active.steps = self._begin(active.request)
        made = next(active.steps)
        active.made += 1
        reason: FinishReason | None = None
        if int(made.token_id) in active.request.end_ids:
            reason = "stop"
        elif made.is_last or active.made >= room_for_answer(active.request, self._context):
            reason = "length"
        if reason is not None:
            self.cancel(active.request.request_id)
        return [
            Emitted(
                active.request.request_id,
                int(made.token_id),
                None if made.log_prob is None else float(made.log_prob),
                finish_reason=reason,
            )
        ]

    def _begin(self, request: Request) -> Iterator[Any]:
        sampling: dict[str, Any] = {"sampling_topk": 1}
        if request.temperature:
            sampling = {
                "sampling_topk": 0,
                "sampling_topp": request.top_p,
                "sampling_temperature": request.temperature,
            }
        steps: Iterator[Any] = self._generators[request.system].generate_tokens(
            self._tokenizer.convert_ids_to_tokens(list(request.prompt_ids)),
            max_length=room_for_answer(request, self._context),
            end_token=sorted(request.end_ids),
            # After temperature it would not be the model's own probability.
            return_log_prob=bool(request.n_logprobs) and not request.temperature,
            **sampling,
        )
        return steps


def load_ct2(
    base: str, run: str, model: Any, adapter: Path, tokenizer: Any, *, context_tokens: int | None
) -> CTranslate2Engine:
    """Merge an adapter, convert base and merged model, and load both.

    Args:
        base, run: names of the two systems.

    Raises:
        ModelReferenceError: CTranslate2 does not know the architecture.
    """
    plain = share_weights(model)
    merged = merged_model(plain, load_adapter(share_weights(model), adapter))
    generators = {
        name: _converted(made, tokenizer) for name, made in ((base, plain), (run, merged))
    }
    return CTranslate2Engine(generators, tokenizer, context_tokens=context_tokens)


def _converted(model: Any, tokenizer: Any) -> Any:
    ctranslate2 = need_ctranslate2()
    with tempfile.TemporaryDirectory(prefix="veritune-ct2-") as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        model.save_pretrained(source)
        tokenizer.save_pretrained(source)
        convert(source, target, precision="float32")
        name_missing_tokens(target, str(tokenizer.pad_token))
        return ctranslate2.Generator(str(target), device="cpu", inter_threads=1)
