"""Every verb, in the order in which people meet them."""

from __future__ import annotations

import typer

from veritune.cli import ask, export, judging, machine, serve, stages, sweep
from veritune.cli.root import app

__all__ = ["app", "ask", "export", "judging", "machine", "serve", "stages", "sweep"]

_ORDER = (
    *("demo", "run", "plan", "prepare", "train", "evaluate", "score", "compare", "report", "sweep"),
    *("ask", "serve", "export", "sandbox-check", "doctor", "schema"),
)


def _place(command: typer.models.CommandInfo) -> int:
    return _ORDER.index(command.name or getattr(command.callback, "__name__", ""))


app.registered_commands.sort(key=_place)
