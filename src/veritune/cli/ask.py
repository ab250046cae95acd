"""The verb that asks a trained run: once, from a pipe, or in a session."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veritune.cli.root import app
from veritune.cli.shared import Json, Overrides, faults, recipe_of
from veritune.errors import DataError, RecipeError
from veritune.head_start import without_meta_kernels
from veritune.run_dir import open_run

if TYPE_CHECKING:
    from veritune.ask.conversation import Conversation
    from veritune.sandbox.outcome import Execution

_SAMPLING_TEMPERATURE = 0.8


@app.command(epilog='Example: veritune ask runs/demo "Reverse a string." --both --run')
def ask(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained run's directory.")],
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUESTION]",
            help="- reads it from stdin; without one, a session begins.",
        ),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model instead.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Ask the base, then the adapted.")] = False,
    n: Annotated[int, typer.Option("--n", min=1, max=100, help="Answers of each model.")] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", min=0.0, help="0 is greedy, the default; with --n above 1 it is 0.8."
        ),
    ] = None,
    top_p: Annotated[float, typer.Option("--top-p", min=0.01, max=1.0)] = 1.0,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The same draws every time.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Default: as in evaluation.")
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run", help="Run each answer in the sandbox, as a script.")
    ] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Ask the adapted model, the base, or both; without a question, begin a session."""
    with faults(as_json):
        if base and both:
            raise RecipeError(
                "--base and --both exclude each other",
                received="--base --both",
                accepted="one of them, or neither for the adapted model",
                next_step="leave one out",
            )
        drawn = _temperature(temperature, n)
        directory = open_run(run)
        asked = _question(question, as_json)

        with without_meta_kernels():
            from veritune.ask.asker import Manner, checked_question
            from veritune.ask.conversation import ADAPTED, Conversation, answer_all
            from veritune.ask.open_run import open_asker
        from veritune.generate.engine import BASE
        from veritune.show.ask import PlainScreen, TerminalScreen

        if asked is not None:
            asked = checked_question(asked)
        recipe = recipe_of(run, overrides)
        asker = open_asker(directory, recipe)
        manner = Manner(
            max_new_tokens=max_new_tokens or recipe.evaluate.max_new_tokens,
            temperature=drawn,
            top_p=top_p,
            seed=seed,
        )
        systems = (BASE, ADAPTED) if both else (BASE,) if base else (ADAPTED,)
        if asked is None:
            talk = Conversation(asker, manner, TerminalScreen(), _run)
            talk.systems = systems
            _session(talk, directory.path)
            return
        several = len(systems) * n > 1
        screen: Any = (
            _Silent()
            if as_json
            else TerminalScreen()
            if sys.stdout.isatty()
            else PlainScreen(several=several)
        )
        answers = answer_all(asker, asked, systems, manner, screen, n=n)
        ran = [_run(answer.code) if run_code else None for answer in answers]
        if as_json:
            rows = [
                {
                    **asdict(answer),
                    "parses": not answer.fault,
                    "ran": None if done is None else asdict(done),
                }
                for answer, done in zip(answers, ran, strict=True)
            ]
            content = {"run": str(run), "question": asked, "answers": rows}
            sys.stdout.write(json.dumps(content, indent=2) + "\n")
            return
        for answer, done in zip(answers, ran, strict=True):
            if done is not None:
                if several:
                    number = f" {answer.index + 1}" if n > 1 else ""
                    screen.say(f"{answer.system}{number}:")
                screen.ran(done)


def _run(code: str) -> Execution:
    from veritune.ask.running import run_program

    return run_program(code)


class _Silent:
    """A screen for ``--json``, whose result is printed whole at the end."""

    def begin(self, system: str, index: int, of: int) -> None:
        """Nothing to show."""

    def piece(self, text: str) -> None:
        """Nothing to show."""

    def end(self, answer: object) -> None:
        """Nothing to show."""

    def ran(self, execution: object) -> None:
        """Nothing to show."""

    def say(self, text: str) -> None:
        """Nothing to show."""


def _temperature(wanted: float | None, n: int) -> float:
    if wanted is None:
        return _SAMPLING_TEMPERATURE if n > 1 else 0.0
    if n > 1 and wanted == 0:
        raise RecipeError(
            "several greedy answers are all the same",
            received=f"--n {n} --temperature 0",
            accepted="a temperature above 0 with --n above 1",
            next_step=f"--temperature {_SAMPLING_TEMPERATURE}",
        )
    return wanted


def _question(given: str | None, as_json: bool) -> str | None:
    """The question; None for a session, which needs a terminal at both ends."""
    if given not in (None, "-"):
        return given
    if given is None and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        return None
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "the question on stdin is not valid UTF-8",
            received=f"byte {error.object[error.start]:#04x} at {error.start}",
            accepted="text in UTF-8",
            next_step="convert it, for example with iconv -t utf-8",
        ) from None


def _session(talk: Conversation, run: Path) -> None:
    """Read lines until the user leaves."""
    from veritune.cli.ask_prompt import LineReader
    from veritune.show.ask import session_head

    session_head(run)
    reader = LineReader()
    while (line := reader.read(talk.label)) is not None and talk.take(line):
        pass
