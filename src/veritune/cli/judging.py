"""The verbs that judge answers and runs made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from veritune import show
from veritune.cli.root import app
from veritune.cli.shared import AllowBroken, Json, faults, print_result
from veritune.progress import TerminalReporter


@app.command(epilog="Example: veritune score predictions.jsonl --json --output scored")
def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS.jsonl", help="One answer a line, as JSON.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write the scores there, too.")
    ] = None,
    allow_broken: AllowBroken = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Score texts only; run nothing, even in the sandbox.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score anyone's answers: text metrics, and in the sandbox their tests."""
    with faults(as_json):
        from veritune.pipeline.score_file import score_file

        result = score_file(
            predictions,
            TerminalReporter(),
            output=output,
            run_answers=not no_run,
            allow_broken_references=allow_broken,
        )
        print_result(result, as_json, lambda: show.scores(result))


@app.command(epilog="Example: veritune compare runs/r4 runs/r16")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="A finished run.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another finished run.")],
    as_json: Json = False,
) -> None:
    """Compare the adapted models of two finished runs on their common test questions."""
    with faults(as_json):
        from veritune.pipeline.compare_runs import compare_runs

        result = compare_runs(first, second)
        print_result(result, as_json, lambda: show.conclusion(result))
