"""An interactive session: what each line does.  How it looks is the screen's affair."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from veritune.ask.asker import Answer, Asker, Manner, checked_question
from veritune.atomic import disk_faults, write_json, write_text
from veritune.errors import DataError, VerituneError
from veritune.generate.engine import BASE
from veritune.sandbox.outcome import Execution

ADAPTED = "adapted"
HELP = """\
/adapted       ask the adapted model
/base          ask the base model
/both          ask the base, then the adapted model
/run           run the last answer's code in the sandbox
/save FILE     write this session to FILE (.json, or Markdown)
/help          this list
/quit          leave (so does Ctrl-D)
Enter sends; Alt-Enter begins a new line; Ctrl-C stops an answer; ↑ finds earlier questions."""
_SYSTEMS: dict[str, tuple[str, ...]] = {
    "/adapted": (ADAPTED,),
    "/base": (BASE,),
    "/both": (BASE, ADAPTED),
}

Run = Callable[[str], Execution]


class Screen(Protocol):
    """Where a session is seen.  Everything it is given may be hostile text."""

    def begin(self, system: str, index: int, of: int) -> None:
        """An answer of ``system`` comes, the ``index``-th (from 0) ``of`` so many."""

    def piece(self, text: str) -> None:
        """More of it."""

    def end(self, answer: Answer) -> None:
        """It is whole, or was stopped."""

    def ran(self, execution: Execution) -> None:
        """A program was run."""

    def say(self, text: str) -> None:
        """A word to the user."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answers."""

    question: str
    answers: tuple[Answer, ...]


def answer_all(
    asker: Asker,
    question: str,
    systems: tuple[str, ...],
    manner: Manner,
    screen: Screen,
    *,
    n: int = 1,
) -> list[Answer]:
    """Ask each system ``n`` times and show the answers as they come.

    Raises:
        DataError: the question is empty, unreadable, or too long.
    """
    question = checked_question(question)
    answers = []
    for system in systems:
        for index in range(n):
            reply = asker.ask(question, system, manner, index)
            screen.begin(system, index, n)
            stopped = False
            try:
                for piece in reply:
                    screen.piece(piece)
            except KeyboardInterrupt:
                stopped = True
            answers.append(reply.answer)
            screen.end(answers[-1])
            if stopped:
                screen.say("stopped")
                return answers
    return answers


class Conversation:
    """The state of a session: who is asked, and what was said."""

    def __init__(self, asker: Asker, manner: Manner, screen: Screen, run: Run) -> None:
        self._asker = asker
        self._manner = manner
        self._screen = screen
        self._run = run
        self.systems: tuple[str, ...] = (ADAPTED,)
        self.exchanges: list[Exchange] = []

    @property
    def label(self) -> str:
        """Who is asked next, in a word."""
        return self.systems[0] if len(self.systems) == 1 else "both"

    def take(self, line: str) -> bool:
        """Do what a line says; False ends the session.  A fault is shown, never raised."""
        if not line.strip():
            return True
        try:
            if line.lstrip().startswith("/"):
                return self._command(line.strip())
            answers = answer_all(self._asker, line, self.systems, self._manner, self._screen)
            self.exchanges.append(Exchange(checked_question(line), tuple(answers)))
        except VerituneError as error:
            self._screen.say(str(error))
        return True

    def _command(self, line: str) -> bool:
        name, _, argument = line.partition(" ")
        if name in _SYSTEMS:
            self.systems = _SYSTEMS[name]
            self._screen.say(f"asking: {' and '.join(self.systems)}")
        elif name == "/run":
            self._run_last()
        elif name == "/save":
            self._save(argument.strip())
        elif name in ("/quit", "/exit"):
            return False
        else:
            unknown = "" if name == "/help" else f"there is no {name}\n"
            self._screen.say(unknown + HELP)
        return True

    def _run_last(self) -> None:
        if not self.exchanges:
            self._screen.say("there is no answer to run yet")
            return
        answers = self.exchanges[-1].answers
        for answer in answers:
            if len(answers) > 1:
                self._screen.say(f"{answer.system}:")
            self._screen.ran(self._run(answer.code))

    def _save(self, name: str) -> None:
        if not name:
            self._screen.say("/save needs a file name: /save session.md")
            return
        # Of no user's home, it is a name like others.
        path = Path(os.path.expanduser(name))  # noqa: PTH111
        with disk_faults(path):
            taken = path.exists()
        if taken:
            raise DataError(
                "this file exists already and is not overwritten",
                received=path,
                accepted="the name of a new file",
                next_step="name another",
            )
        if path.suffix.lower() == ".json":
            write_json(path, [asdict(exchange) for exchange in self.exchanges])
        else:
            write_text(path, _markdown(self.exchanges))
        self._screen.say(f"saved {len(self.exchanges)} questions to {path}")


def _markdown(exchanges: list[Exchange]) -> str:
    parts = []
    for exchange in exchanges:
        parts.append(f"## Question\n\n{_fenced(exchange.question, 'text')}")
        for answer in exchange.answers:
            state = f"does not parse: {answer.fault}" if answer.fault else "parses"
            head = f"### {answer.system} ({' '.join(state.split())})"
            parts.append(f"{head}\n\n{_fenced(answer.text, 'text')}")
    text = "\n\n".join(parts) + "\n"
    # A lone surrogate cannot be written.
    return text.encode("utf-8", "replace").decode("utf-8")


def _fenced(text: str, language: str) -> str:
    """Text in a fence longer than any inside it."""
    longest = 0
    run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
