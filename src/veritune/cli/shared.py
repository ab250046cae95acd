"""What the verbs have in common: options, results on stdout, one exit code per kind of fault."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from veritune.config import Recipe
from veritune.errors import (
    EnvironmentFault,
    GateFailed,
    InputFault,
    Interrupted,
    OutOfMemory,
    RunDirectoryError,
    VerituneError,
)
from veritune.progress import Reporter, TerminalReporter
from veritune.recipe_file import load_recipe, read_yaml, recipe_from
from veritune.rows import Requirement
from veritune.run_dir import RunDirectory, open_run
from veritune.visible_text import escaped

Target = Annotated[
    Path, typer.Argument(metavar="RECIPE|RUN", help="A recipe (.yaml) or a run directory.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set lora.r=8"),
]
AllowBroken = Annotated[
    bool,
    typer.Option(
        "--allow-broken-references",
        help="Leave out rows whose own reference fails its tests, instead of stopping.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")
]
Require = Annotated[
    Requirement | None,
    typer.Option("--require", help="Exit with 1 unless adapted is better, or not worse."),
]
Curve = Annotated[
    str | None,
    typer.Option("--curve", metavar="N,N,…", help="Also train on so many rows: --curve 64,256"),
]


def recipe_of(target: Path, overrides: list[str] | None) -> Recipe:
    """The recipe of a file or a run directory, with overrides."""
    if not target.is_dir():
        return load_recipe(target, overrides or [])
    run_directory = open_run(target)
    content = read_yaml(run_directory.recipe_file)
    if not content:
        # Defaults would stand in for what the run was made with.
        raise RunDirectoryError(
            "the run's recipe is empty",
            received=run_directory.recipe_file,
            accepted="the file as Veritune wrote it",
            next_step="restore it, or start again in another output_dir",
        )
    # A run directory may have been moved or copied since it was written.
    content["output_dir"] = str(target)
    return recipe_from(content, overrides or [], where=str(run_directory.recipe_file))


@contextlib.contextmanager
def context_of(target: Path, overrides: list[str] | None) -> Iterator[Any]:
    """The run at work of a recipe or a run directory; progress goes to stderr."""
    from veritune.pipeline.context import open_context

    reporter: Reporter = TerminalReporter()
    recipe = recipe_of(target, overrides)
    with RunDirectory(Path(recipe.output_dir)).recipe_unless_refused():
        yield open_context(recipe, reporter)


def broken(allow: bool) -> list[str]:
    """``--allow-broken-references`` as an override."""
    return ["evaluate.allow_broken_references=true"] if allow else []


def with_curve(overrides: list[str] | None, curve: str | None) -> list[str]:
    """Overrides with ``--curve`` among them."""
    return [*(overrides or []), *([] if curve is None else [f"evaluate.curve=[{curve}]"])]


@contextlib.contextmanager
def gate(require: Requirement | None, result: dict[str, Any], recipe: Recipe) -> Iterator[None]:
    """Judge a result, let it be printed with the judgement in it, then fail if it failed."""
    if require is None:
        yield
        return
    from veritune.compare.gate import headline_of, judge

    gate = judge(require, headline_of(result), margin=recipe.evaluate.margin)
    result["gate"] = gate.to_json()
    yield
    if not gate.passed:
        raise GateFailed(f"the gate --require {require} failed: {gate.reason}")


def print_result(result: dict[str, Any], as_json: bool, in_words: Callable[[], None]) -> None:
    """One JSON object on stdout, or the words of a person."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    else:
        in_words()


@contextlib.contextmanager
def faults(as_json: bool) -> Iterator[None]:
    """Print a fault in words (or as JSON) and exit with its code; never a traceback for one."""
    try:
        yield
    except VerituneError as error:
        _exit(error, as_json)
    except KeyboardInterrupt:
        _exit(
            Interrupted(
                "stopped; finished stages and the last checkpoint are kept",
                next_step="run the same command again to go on",
            ),
            as_json,
        )
    except MemoryError:
        _exit(
            OutOfMemory(
                "memory ran out",
                next_step="lower train.batch_size or data.max_rows, or use a smaller model",
            ),
            as_json,
        )
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            _exit(
                InputFault(
                    "a name in a path is too long for this file system",
                    received=error.filename,
                    accepted="names of at most 255 bytes",
                    next_step="shorten it",
                ),
                as_json,
            )
        if not isinstance(error, BrokenPipeError):
            raise
        # Whoever read our output has gone; nothing is lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EnvironmentFault.exit_code) from None


def _exit(error: VerituneError, as_json: bool) -> None:
    # A failed gate has printed the result itself, with the reason in it.
    if as_json and not isinstance(error, GateFailed):
        sys.stdout.write(json.dumps(error.to_json(), indent=2) + "\n")
    Console(stderr=True).print(
        f"[bold red]error:[/] {escaped(str(error))}", highlight=False, soft_wrap=True
    )
    raise typer.Exit(error.exit_code) from None
