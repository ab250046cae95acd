"""The command that the verbs belong to."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from veritune import __version__
from veritune.errors import RecipeError


class Verbs(TyperGroup):
    """The verbs; what the command line itself has wrong is JSON, too, where ``--json`` asks."""

    _arguments: tuple[str, ...] = ()

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        """Remember what was asked before it is taken apart."""
        self._arguments = tuple(args)
        with _said(self._arguments):
            return super().make_context(info_name, args, *rest, **more)

    def invoke(self, ctx: Any) -> Any:
        """Take the verb's own options apart and run it."""
        with _said(self._arguments):
            return super().invoke(ctx)


@contextlib.contextmanager
def _said(arguments: tuple[str, ...]) -> Iterator[None]:
    """Print a usage error as JSON, and let it pass on to be said in words on stderr."""
    try:
        yield
    except Exception as fault:
        if "--json" in arguments and hasattr(fault, "format_message"):
            error = RecipeError(fault.format_message(), next_step="veritune --help")
            said = {**error.to_json(), "error": "UsageError"}
            sys.stdout.write(json.dumps(said, indent=2) + "\n")
        raise


app = typer.Typer(
    name="veritune",
    cls=Verbs,
    help="Adapt a code model with LoRA, and prove whether it helped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"veritune {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version
