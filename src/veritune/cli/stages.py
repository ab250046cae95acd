"""The verbs that make a run, from raw rows to a report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from veritune import show
from veritune.cli.root import app
from veritune.cli.shared import (
    AllowBroken,
    Curve,
    Json,
    Overrides,
    Require,
    Target,
    broken,
    context_of,
    faults,
    gate,
    print_result,
    recipe_of,
    with_curve,
)
from veritune.progress import TerminalReporter
from veritune.recipe_file import load_recipe
from veritune.run_dir import RunDirectory

_DEMO_RECIPE = Path(__file__).parents[1] / "demo.yaml"


@app.command(epilog="Example: veritune demo --set output_dir=runs/demo")
def demo(overrides: Overrides = None, require: Require = None, as_json: Json = False) -> None:
    """Adapt the bundled model to Python's standard library and report: no hub, no GPU."""
    with faults(as_json):
        from veritune.pipeline.context import open_context
        from veritune.pipeline.run import run_all

        reporter = TerminalReporter()
        recipe = load_recipe(_DEMO_RECIPE, overrides or [])
        show.demo_budget(recipe, reporter)
        started = time.monotonic()
        result = run_all(open_context(recipe, reporter))
        with gate(require, result, recipe):
            print_result(result, as_json, lambda: show.verdict(result, time.monotonic() - started))


@app.command(epilog="Example: veritune run recipes/my-data.yaml --set train.epochs=2")
def run(
    target: Target,
    overrides: Overrides = None,
    curve: Curve = None,
    require: Require = None,
    allow_broken: AllowBroken = False,
    as_json: Json = False,
) -> None:
    """Prepare, train, evaluate and report; stages that are up to date are skipped."""
    with faults(as_json):
        from veritune.pipeline.run import run_all

        started = time.monotonic()
        asked = [*with_curve(overrides, curve), *broken(allow_broken)]
        with context_of(target, asked) as context:
            result = run_all(context)
        with gate(require, result, context.recipe):
            print_result(result, as_json, lambda: show.verdict(result, time.monotonic() - started))


@app.command(epilog="Example: veritune plan recipes/codet5-python-codes.yaml --json")
def plan(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Say what a run or a sweep would do (rows, steps, FLOPs, memory) without doing it."""
    with faults(as_json):
        from veritune.plan import make_plan
        from veritune.sweep.forecast import forecast

        recipe = recipe_of(target, overrides)
        result = make_plan(recipe, TerminalReporter())
        if recipe.sweep:
            result["sweep"] = forecast(recipe, result)
        print_result(result, as_json, lambda: show.plan(result))


@app.command(epilog="Example: veritune prepare recipes/my-data.yaml")
def prepare(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Read, clean and split the data; write the data card."""
    with faults(as_json):
        from veritune.pipeline.prepare import prepare_stage

        with context_of(target, overrides) as context, context.run.lock():
            result = {**prepare_stage(context), "card": str(context.run.data / "card.html")}
        print_result(result, as_json, lambda: show.facts("data", result))


@app.command(epilog="Example: veritune train runs/mine")
def train(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train the adapter (prepares the data first if needed); resumes where it stopped."""
    with faults(as_json):
        from veritune.pipeline.prepare import prepare_stage
        from veritune.pipeline.train import train_stage

        with context_of(target, overrides) as context, context.run.lock():
            prepare_stage(context)
            summary = train_stage(context)
        result = {**summary, "adapter": str(context.run.adapter)}
        print_result(result, as_json, lambda: show.training(context.run.train_log, result))


@app.command(epilog="Example: veritune evaluate runs/mine --set evaluate.max_new_tokens=128")
def evaluate(
    target: Target,
    overrides: Overrides = None,
    adapters: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            metavar="PATH",
            help="Compare with another adapter of the same base (a run or an adapter folder),"
            " in place of those in evaluate.adapters; repeat for several.",
        ),
    ] = None,
    curve: Curve = None,
    require: Require = None,
    allow_broken: AllowBroken = False,
    as_json: Json = False,
) -> None:
    """Answer held-out questions with every system, score them, and compare."""
    with faults(as_json):
        from veritune.pipeline.evaluate import evaluate_stage

        named = json.dumps([str(path) for path in adapters or []])
        asked = [*(overrides or []), *([f"evaluate.adapters={named}"] if adapters else [])]
        asked = [*with_curve(asked, curve), *broken(allow_broken)]
        with context_of(target, asked) as context, context.run.lock():
            result = evaluate_stage(context)
        with gate(require, result, context.recipe):
            print_result(result, as_json, lambda: show.conclusion(result))


@app.command(epilog="Example: veritune report runs/mine")
def report(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Rebuild report.html and report.md from a run's files."""
    with faults(as_json):
        from veritune.pipeline.context import Context
        from veritune.pipeline.run import report_stage

        # Only read: settings named now are not those that the numbers were made with.
        recipe = recipe_of(target, overrides)
        run = RunDirectory(Path(recipe.output_dir))
        html, markdown = report_stage(Context(run, recipe, TerminalReporter()))
        result = {"report_html": str(html), "report_md": str(markdown)}
        print_result(result, as_json, lambda: show.facts("report", result))
