"""The command line: results on stdout, news on stderr, one exit code per kind of fault."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from veritune import __version__, show
from veritune.config import Recipe
from veritune.errors import EnvironmentFault, GateFailed, Interrupted, OutOfMemory, VerituneError
from veritune.progress import Reporter, TerminalReporter
from veritune.recipe_file import load_recipe, read_yaml, recipe_from
from veritune.rows import Requirement
from veritune.run_dir import open_run

app = typer.Typer(
    name="veritune",
    help="Adapt a code model with LoRA, and prove whether it helped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

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

_DEMO_RECIPE = Path(__file__).with_name("demo.yaml")


def main() -> None:
    """Entry point of the ``veritune`` command."""
    _settle_environment()
    app()


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"veritune {__version__}\n")
        raise typer.Exit


@app.command(epilog="Example: veritune demo --set output_dir=runs/demo")
def demo(overrides: Overrides = None, require: Require = None, as_json: Json = False) -> None:
    """Adapt the bundled model to Python's standard library and report: no hub, no GPU."""
    with _faults(as_json):
        from veritune.pipeline.context import open_context
        from veritune.pipeline.run import run_all

        reporter = TerminalReporter()
        recipe = load_recipe(_DEMO_RECIPE, overrides or [])
        show.demo_budget(recipe, reporter)
        started = time.monotonic()
        result = run_all(open_context(recipe, reporter))
        with _gate(require, result, recipe):
            _print(result, as_json, lambda: show.verdict(result, time.monotonic() - started))


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
    with _faults(as_json):
        from veritune.pipeline.run import run_all

        started = time.monotonic()
        context = _context(target, [*_with_curve(overrides, curve), *_broken(allow_broken)])
        result = run_all(context)
        with _gate(require, result, context.recipe):
            _print(result, as_json, lambda: show.verdict(result, time.monotonic() - started))


@app.command(epilog="Example: veritune plan recipes/codet5-python-codes.yaml --json")
def plan(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Say what a run would do (rows, steps, FLOPs, memory, coverage) without doing it."""
    with _faults(as_json):
        from veritune.plan import make_plan

        result = make_plan(_recipe(target, overrides), TerminalReporter())
        _print(result, as_json, lambda: show.plan(result))


@app.command(epilog="Example: veritune prepare recipes/my-data.yaml")
def prepare(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Read, clean and split the data; write the data card."""
    with _faults(as_json):
        from veritune.pipeline.prepare import prepare_stage

        context = _context(target, overrides)
        with context.run.lock():
            result = {**prepare_stage(context), "card": str(context.run.data / "card.html")}
        _print(result, as_json, lambda: show.facts("data", result))


@app.command(epilog="Example: veritune train runs/mine")
def train(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train the adapter (prepares the data first if needed); resumes where it stopped."""
    with _faults(as_json):
        from veritune.pipeline.prepare import prepare_stage
        from veritune.pipeline.train import train_stage

        context = _context(target, overrides)
        with context.run.lock():
            prepare_stage(context)
            summary = train_stage(context)
        result = {**summary, "adapter": str(context.run.adapter)}
        _print(result, as_json, lambda: show.training(context.run.train_log, result))


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
    with _faults(as_json):
        from veritune.pipeline.evaluate import evaluate_stage

        named = json.dumps([str(path) for path in adapters or []])
        asked = [*(overrides or []), *([f"evaluate.adapters={named}"] if adapters else [])]
        context = _context(target, [*_with_curve(asked, curve), *_broken(allow_broken)])
        with context.run.lock():
            result = evaluate_stage(context)
        with _gate(require, result, context.recipe):
            _print(result, as_json, lambda: show.conclusion(result))


@app.command(epilog="Example: veritune report runs/mine")
def report(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Rebuild report.html and report.md from a run's files."""
    with _faults(as_json):
        from veritune.pipeline.run import report_stage

        html, markdown = report_stage(_context(target, overrides))
        result = {"report_html": str(html), "report_md": str(markdown)}
        _print(result, as_json, lambda: show.facts("report", result))


@app.command(epilog="Example: veritune schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON Schema of a recipe."""
    with _faults(as_json=False):
        sys.stdout.write(json.dumps(Recipe.model_json_schema(), indent=2) + "\n")


@app.command(epilog="Example: veritune doctor --json")
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, what is missing, and how to get it."""
    with _faults(as_json):
        from veritune.doctor import examine

        result = examine()
        _print(result, as_json, lambda: show.doctor(result))


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
    with _faults(as_json):
        from veritune.pipeline.score_file import score_file

        result = score_file(
            predictions,
            TerminalReporter(),
            output=output,
            run_answers=not no_run,
            allow_broken_references=allow_broken,
        )
        _print(result, as_json, lambda: show.scores(result))


@app.command(epilog="Example: veritune compare runs/r4 runs/r16")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="A finished run.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another finished run.")],
    as_json: Json = False,
) -> None:
    """Compare the adapted models of two finished runs on their common test questions."""
    with _faults(as_json):
        from veritune.pipeline.compare_runs import compare_runs

        result = compare_runs(first, second)
        _print(result, as_json, lambda: show.conclusion(result))


@app.command("sandbox-check", epilog="Example: veritune sandbox-check --json")
def sandbox_check(as_json: Json = False) -> None:
    """Attack the sandbox that runs generated code, and say whether it holds."""
    with _faults(as_json):
        from veritune.sandbox.canaries import check_sandbox

        result = check_sandbox().to_json()
        _print(result, as_json, lambda: show.sandbox(result))
        if not result["available"]:
            raise typer.Exit(EnvironmentFault.exit_code)


def _recipe(target: Path, overrides: list[str] | None) -> Recipe:
    if not target.is_dir():
        return load_recipe(target, overrides or [])
    run_directory = open_run(target)
    content = read_yaml(run_directory.recipe_file)
    # A run directory may have been moved or copied since it was written.
    content["output_dir"] = str(target)
    return recipe_from(content, overrides or [], where=str(run_directory.recipe_file))


def _context(target: Path, overrides: list[str] | None) -> Any:
    from veritune.pipeline.context import open_context

    reporter: Reporter = TerminalReporter()
    return open_context(_recipe(target, overrides), reporter)


def _broken(allow: bool) -> list[str]:
    return ["evaluate.allow_broken_references=true"] if allow else []


def _with_curve(overrides: list[str] | None, curve: str | None) -> list[str]:
    return [*(overrides or []), *([] if curve is None else [f"evaluate.curve=[{curve}]"])]


@contextlib.contextmanager
def _gate(require: Requirement | None, result: dict[str, Any], recipe: Recipe) -> Iterator[None]:
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


def _print(result: dict[str, Any], as_json: bool, in_words: Callable[[], None]) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    else:
        in_words()


@contextlib.contextmanager
def _faults(as_json: bool) -> Iterator[None]:
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
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EnvironmentFault.exit_code) from None


def _exit(error: VerituneError, as_json: bool) -> None:
    # A failed gate has printed the result itself, with the reason in it.
    if as_json and not isinstance(error, GateFailed):
        sys.stdout.write(json.dumps(error.to_json(), indent=2) + "\n")
    Console(stderr=True).print(
        f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True
    )
    raise typer.Exit(error.exit_code) from None


def _settle_environment() -> None:
    """Settings that libraries read when they are imported.

    Threads that wait by spinning hold back the ones they wait for as soon as another
    process wants a core; and other libraries' bars would drown the lines that matter here.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
