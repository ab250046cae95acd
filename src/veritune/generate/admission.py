"""What engines ask of a request before they take it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from veritune.errors import DataError, ModelReferenceError
from veritune.generate.engine import Request


def refuse_unanswerable(
    request: Request,
    systems: Sequence[str],
    *,
    context_tokens: int | None,
    under_way: Collection[str],
    vocabulary: int | None = None,
) -> None:
    """Refuse what no engine can answer.

    Args:
        systems: that the engine has.
        context_tokens: most tokens of prompt and answer, None where there is no limit.
        under_way: names of the requests that it has.
        vocabulary: how many tokens the model knows; None leaves that unasked.

    Raises:
        ModelReferenceError: no such system.
        DataError: the prompt is empty, has unknown tokens or leaves no room for an answer, none
            is asked for, or a request of this name is under way.
    """
    if request.system not in systems:
        raise ModelReferenceError(
            "no such system here",
            received=request.system,
            accepted=", ".join(systems),
            next_step="name one of these",
        )
    if not request.prompt_ids:
        raise DataError(
            "the prompt is empty",
            received="0 tokens",
            accepted="at least one token",
            next_step="ask something",
        )
    if vocabulary is not None and not all(0 <= one < vocabulary for one in request.prompt_ids):
        raise DataError(
            "the prompt has a token that the model does not know",
            received=f"tokens from {min(request.prompt_ids)} to {max(request.prompt_ids)}",
            accepted=f"tokens from 0 to {vocabulary - 1}",
            next_step="encode the prompt with the model's own tokenizer",
        )
    if request.max_new_tokens < 1:
        raise DataError(
            "the answer may have no token",
            received=f"max_new_tokens {request.max_new_tokens}",
            accepted="1 or more",
            next_step="ask for at least one",
        )
    if context_tokens is not None and len(request.prompt_ids) >= context_tokens:
        raise DataError(
            "the prompt leaves no room for an answer",
            received=f"{len(request.prompt_ids)} tokens",
            accepted=f"fewer than the {context_tokens} tokens that the model attends to",
            next_step="shorten the question",
        )
    if request.request_id in under_way:
        raise DataError(
            "a request of this name is under way",
            received=request.request_id,
            accepted="a name of its own",
            next_step="name it otherwise, or wait for the other's end",
        )


def room_for_answer(request: Request, context_tokens: int | None) -> int:
    """Most tokens that a decoder can answer an admitted request with."""
    if context_tokens is None:
        return request.max_new_tokens
    return min(request.max_new_tokens, context_tokens - len(request.prompt_ids))
