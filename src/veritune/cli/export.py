"""The verb that hands a trained run to other programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from veritune.cli.root import app
from veritune.cli.shared import Json, Overrides, faults, print_result, recipe_of
from veritune.errors import GateFailed
from veritune.progress import TerminalReporter
from veritune.run_dir import open_run


@app.command(epilog="Example: veritune export runs/demo --to gguf --quantization q8_0")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained run's directory.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="merged, peft, gguf, ct2, vllm, ollama or hub-folder.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Default: export/FORMAT in the run."),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            metavar="NAME",
            help="gguf, ollama: f16 (default), q8_0, f32. ct2: float32 (default), int8."
            " merged, vllm, hub-folder: base (default), bfloat16, float16, float32.",
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", help="The hub's name of a licence, for the model card."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write a trained run for other programs; nothing is kept unless it answers as the run does."""
    with faults(as_json):
        from veritune.export.export_run import export_run
        from veritune.show.export import export as show_export

        try:
            result = export_run(
                open_run(run),
                recipe_of(run, overrides),
                TerminalReporter(),
                to=to,
                quantization=quantization,
                output=output,
                licence=licence,
            )
        except GateFailed as error:
            if as_json:
                sys.stdout.write(json.dumps(error.to_json(), indent=2) + "\n")
            raise
        print_result(result, as_json, lambda: show_export(result))
