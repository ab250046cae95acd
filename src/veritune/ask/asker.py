"""One question, one system, one answer that arrives token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from veritune.errors import DataError
from veritune.generate.engine import Emitted, Engine, FinishReason, Request
from veritune.model.prompt import PromptFormat

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Manner:
    """How answers are made.

    Attributes:
        temperature: 0 is greedy.
        seed: of the draws; None draws anew every time.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        index: from 0, of several answers to one question.
        text: exactly as generated, without special tokens.
        code: the program in it.
        fault: why the program does not parse; empty if it does.
        first_token_seconds, seconds: since the question was handed over.
    """

    system: str
    index: int
    text: str
    code: str
    fault: str
    finish_reason: FinishReason
    n_prompt_tokens: int
    n_new_tokens: int
    first_token_seconds: float
    seconds: float


@dataclass(frozen=True)
class _Question:
    instruction: str
    input: str = ""


def checked_question(text: str) -> str:
    """The question without outer blank lines.

    Raises:
        DataError: it is empty, or holds what was no UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "the question is not valid UTF-8",
            received=f"an unreadable byte at character {error.start}",
            accepted="text in UTF-8",
            next_step="convert it, for example with iconv -t utf-8",
        ) from None
    if not text.strip():
        raise DataError(
            "the question is empty",
            received=repr(text),
            accepted="at least one word",
            next_step='veritune ask RUN "your question"',
        )
    return text.strip("\r\n")


class Asker:
    """Asks an engine, and puts its tokens together to text.

    Args:
        engine: used by nobody else meanwhile.
    """

    def __init__(self, engine: Engine, prompt_format: PromptFormat) -> None:
        self._engine = engine
        self._format = prompt_format
        self._n_asked = 0

    def ask(self, question: str, system: str, manner: Manner, index: int = 0) -> Reply:
        """Hand a question over; iterate the reply for the answer's pieces.

        Raises:
            DataError: the prompt leaves no room for an answer.
        """
        prompt_ids = self._format.encode_prompt(self._format.prompt(_Question(question)))
        self._n_asked += 1
        seed = None if manner.seed is None else manner.seed + index
        ends = {self._format.end_id, int(self._format.tokenizer.eos_token_id)}
        request = Request(
            request_id=f"ask-{self._n_asked}",
            prompt_ids=tuple(prompt_ids),
            system=system,
            max_new_tokens=manner.max_new_tokens,
            end_ids=frozenset(ends),
            temperature=manner.temperature,
            top_p=manner.top_p,
            seed=seed,
        )
        started = time.perf_counter()
        self._engine.add(request)
        return Reply(self._engine, self._format.tokenizer, request, index, started)


class Reply:
    """An answer on its way: iterate it, then read ``answer``."""

    def __init__(
        self, engine: Engine, tokenizer: Any, request: Request, index: int, started: float
    ) -> None:
        self._engine = engine
        self._request = request
        self._text = TokenText(tokenizer)
        self._index = index
        self._started = started
        self._first: float | None = None
        self._finish: FinishReason | None = None
        self._pieces: list[str] = []
        self._n_new_tokens = 0

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, as soon as they are certain; leaving early cancels the answer."""
        try:
            while self._finish is None:
                for row in self._engine.step():
                    if row.request_id == self._request.request_id:
                        yield from self._take(row)
        finally:
            self._engine.cancel(self._request.request_id)
        if rest := self._text.rest():
            self._pieces.append(rest)
            yield rest

    @property
    def answer(self) -> Answer:
        """The whole answer; one that was broken off counts as cut short."""
        # Not before the first token, whom the import would hold up.
        from veritune.score.code import is_empty, parse_failure
        from veritune.score.extract import extract_code

        text = "".join(self._pieces)
        code = extract_code(text)
        fault = "the answer is empty" if is_empty(code) else parse_failure(code)
        return Answer(
            system=self._request.system,
            index=self._index,
            text=text,
            code=code,
            fault=fault or "",
            finish_reason=self._finish or "length",
            n_prompt_tokens=len(self._request.prompt_ids),
            n_new_tokens=self._n_new_tokens,
            first_token_seconds=round(self._first or 0.0, 4),
            seconds=round(time.perf_counter() - self._started, 4),
        )

    def _take(self, row: Emitted) -> Iterator[str]:
        if self._first is None:
            self._first = time.perf_counter() - self._started
        self._finish = row.finish_reason
        self._n_new_tokens += 1
        if row.finish_reason == "stop":
            return
        if piece := self._text.add(row.token_id):
            self._pieces.append(piece)
            yield piece


class TokenText:
    """Turns tokens into text one by one; a character of several tokens comes when it is whole."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # Text up to `_given` is out; decoding starts at `_start`, far enough back for spaces.
        self._start = self._given = 0

    def add(self, token_id: int) -> str:
        """What this token adds to the text for certain."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._start : self._given])
        now = self._decode(self._ids[self._start :])
        if now.endswith(_UNFINISHED) or len(now) <= len(before):
            return ""
        self._start, self._given = self._given, len(self._ids)
        return now[len(before) :]

    def rest(self) -> str:
        """What is left at the end, whole or not."""
        before = self._decode(self._ids[self._start : self._given])
        now = self._decode(self._ids[self._start :])
        self._start = self._given = len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
