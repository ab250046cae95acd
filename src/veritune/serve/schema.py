"""What clients may ask, as OpenAI names it.

Settings that OpenAI knows and this server cannot honour are refused where they would change
the answer, and ignored where they would not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_MOST_STOPS = 4
_LONGEST_STOP = 256
_INT64 = 2**63

_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "functions": ([], None),
    "function_call": ("none", "auto", None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "audio": (None,),
    "prediction": (None,),
    "suffix": ("", None),
    "echo": (False, None),
}


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text") from None
    return value


Text = Annotated[str, AfterValidator(_text)]
Stop = Annotated[Text, Field(min_length=1, max_length=_LONGEST_STOP)]
Stops = Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class _Asked(BaseModel):
    """A body; fields unknown to OpenAI and to us are ignored."""

    model_config = ConfigDict(extra="allow", strict=False)


class StreamOptions(_Asked):
    """How to stream."""

    include_usage: bool = False


class Sampling(_Asked):
    """What both endpoints have in common."""

    model: Annotated[Text, Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    n: Annotated[int | None, Field(ge=1, le=128)] = None
    seed: Annotated[int | None, Field(ge=-_INT64, lt=_INT64)] = None
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _can_be_honoured(self) -> Sampling:
        for name, value in (self.model_extra or {}).items():
            if name in _WITHOUT_EFFECT and value not in _WITHOUT_EFFECT[name]:
                raise ValueError(f"{name} is not supported here; leave it out")
        return self

    @property
    def stops(self) -> list[str]:
        """Stop strings, none or several."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(BaseModel):
    """One part of a message in parts."""

    type: Literal["text"]
    text: Text


class Message(_Asked):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    @property
    def text(self) -> str:
        """The whole message."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(Sampling):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> ChatRequest:
        if self.messages[-1].role != "user":
            raise ValueError("the last of messages must be of the user")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def new_tokens(self) -> int | None:
        """The limit, by its new or its old name."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Sampling):
    """``POST /v1/completions``."""

    prompt: (
        Text
        | Tokens
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[Tokens], Field(min_length=1)]
    )
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _best_of_all(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is not supported here, unless it equals n")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt, as text or as tokens."""
        prompt: Any = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        return [prompt] if isinstance(prompt[0], int) else list(prompt)
