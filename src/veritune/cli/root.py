"""The command that the verbs belong to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from veritune import __version__

app = typer.Typer(
    name="veritune",
    help="Adapt a code model with LoRA, and prove whether it helped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"veritune {__version__}\n")
        raise typer.Exit
