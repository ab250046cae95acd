"""The verbs that ask what this installation and this machine can do."""

from __future__ import annotations

import json
import sys

import typer

from veritune import show
from veritune.cli.root import app
from veritune.cli.shared import Json, faults, print_result
from veritune.config import Recipe
from veritune.errors import EnvironmentFault


@app.command(epilog="Example: veritune schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON Schema of a recipe."""
    with faults(as_json=False):
        sys.stdout.write(json.dumps(Recipe.model_json_schema(), indent=2) + "\n")


@app.command(epilog="Example: veritune doctor --json")
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, what is missing, and how to get it."""
    with faults(as_json):
        from veritune.doctor import examine

        result = examine()
        print_result(result, as_json, lambda: show.doctor(result))


@app.command("sandbox-check", epilog="Example: veritune sandbox-check --json")
def sandbox_check(as_json: Json = False) -> None:
    """Attack the sandbox that runs generated code, and say whether it holds."""
    with faults(as_json):
        from veritune.sandbox.canaries import check_sandbox

        result = check_sandbox().to_json()
        print_result(result, as_json, lambda: show.sandbox(result))
        if not result["available"]:
            raise typer.Exit(EnvironmentFault.exit_code)
