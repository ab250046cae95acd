"""vLLM as an engine: one base on a CUDA device, every run's adapter as a LoRA request.

vLLM's own engine goes step by step, as ours do, and batches across base and adapters; the
thread that owns it is the server's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from veritune.errors import ModelReferenceError
from veritune.generate.admission import refuse_unanswerable, room_for_answer
from veritune.generate.engine import BASE, Emitted, FinishReason, Request
from veritune.model.adapter import CONFIG

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as the largest rank."""
_MOST_LOGPROBS = 20


class VllmEngine:
    """Implements ``engine.Engine`` around a ``vllm.LLMEngine``.

    Args:
        engine: with LoRA enabled.
        adapters: the folder of each adapter, by the name of its system.
    """

    def __init__(
        self, engine: Any, adapters: Mapping[str, Path], *, context_tokens: int | None
    ) -> None:
        from vllm.lora.request import LoRARequest

        self._engine = engine
        self._context = context_tokens
        self._adapters = {
            name: LoRARequest(name, number, str(folder))
            for number, (name, folder) in enumerate(adapters.items(), start=1)
        }
        self._requests: dict[str, Request] = {}

    @property
    def systems(self) -> tuple[str, ...]:
        """``base`` and the adapters' names."""
        return (BASE, *self._adapters)

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together, or None where there is no limit."""
        return self._context

    @property
    def n_active(self) -> int:
        """Requests that have been added and are neither finished nor cancelled."""
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Take a request; vLLM decides when it joins.

        Raises:
            ModelReferenceError: no such system.
            DataError: the prompt is empty or leaves no room for an answer.
        """
        refuse_unanswerable(
            request, self.systems, context_tokens=self._context, under_way=self._requests
        )
        self._engine.add_request(
            request.request_id,
            {"prompt_token_ids": list(request.prompt_ids)},
            self._sampling(request),
            lora_request=self._adapters.get(request.system),
        )
        self._requests[request.request_id] = request

    def cancel(self, request_id: str) -> None:
        """Forget a request; one that is unknown or finished is ignored."""
        if self._requests.pop(request_id, None) is not None:
            self._engine.abort_request([request_id])

    def step(self) -> list[Emitted]:
        """Make the next tokens; empty when there is nothing to do."""
        if not self._requests:
            return []
        return [row for output in self._engine.step() for row in self._emitted(output)]

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            max_tokens=room_for_answer(request, self._context),
            # The request says which tokens end it; the model's own settings do not count.
            stop_token_ids=sorted(request.end_ids),
            ignore_eos=True,
            logprobs=request.n_logprobs or None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def _emitted(self, output: Any) -> Iterator[Emitted]:
        """The new tokens of one request, one by one."""
        request = self._requests.get(output.request_id)
        if request is None:
            return
        (made,) = output.outputs
        reason: FinishReason | None = None
        if made.finish_reason is not None:
            del self._requests[output.request_id]
            reason = "stop" if made.finish_reason == "stop" else "length"
        tokens = [int(token) for token in made.token_ids]
        logprobs = list(made.logprobs or [{}] * len(tokens))
        if reason == "stop" and (not tokens or tokens[-1] not in request.end_ids):
            # Whether the end token itself is handed out has changed between versions.
            tokens.append(min(request.end_ids))
            logprobs.append({})
        for number, (token, known) in enumerate(zip(tokens, logprobs, strict=True), start=1):
            own = known.get(token)
            best = sorted(known.items(), key=lambda item: -float(item[1].logprob))
            yield Emitted(
                request.request_id,
                token,
                None if own is None else float(own.logprob),
                tuple((int(i), float(row.logprob)) for i, row in best[: request.n_logprobs]),
                reason if number == len(tokens) else None,
            )


def load_vllm(
    location: str,
    revision: str | None,
    adapters: Mapping[str, Path],
    *,
    dtype: str,
    context_tokens: int | None,
) -> VllmEngine:
    """Start vLLM on a base model.

    Args:
        location: a folder or a hub id.
        dtype: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        adapters: PEFT folders by name.

    Raises:
        ModelReferenceError: vLLM cannot serve the base, or an adapter of this kind.
    """
    from vllm import EngineArgs, LLMEngine

    try:
        engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=location,
                revision=revision,
                dtype=dtype,
                max_model_len=context_tokens,
                enable_lora=True,
                max_loras=len(adapters),
                max_lora_rank=_rank(adapters.values()),
                max_logprobs=_MOST_LOGPROBS,
                disable_log_stats=True,
            )
        )
    except (ValueError, NotImplementedError) as error:
        raise ModelReferenceError(
            "vLLM cannot serve this model",
            received=f"{location}: {error}",
            accepted="a model that vLLM knows, with plain LoRA adapters",
            next_step="leave --engine out",
        ) from error
    return VllmEngine(engine, adapters, context_tokens=context_tokens)


def _rank(folders: Any) -> int:
    """The smallest rank that vLLM knows and that holds every adapter."""
    largest = 1
    for folder in folders:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("use_dora") or config.get("modules_to_save"):
            raise ModelReferenceError(
                "vLLM serves plain LoRA adapters only",
                received=f"{folder}: DoRA, or whole modules trained beside the adapter",
                accepted="LoRA without use_dora and modules_to_save",
                next_step="leave --engine out",
            )
        largest = max(largest, config["r"], *(config.get("rank_pattern") or {}).values())
    fitting = [rank for rank in _RANKS if rank >= largest]
    if not fitting:
        raise ModelReferenceError(
            "the adapter's rank is larger than vLLM serves",
            received=f"r={largest}",
            accepted=f"at most {_RANKS[-1]}",
            next_step="leave --engine out",
        )
    return fitting[0]
