"""What verbs print for people.  Everything from data or models is escaped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from veritune.config import Recipe
from veritune.progress import Reporter
from veritune.train.log import read_log
from veritune.visible_text import escaped

_VERDICT_STYLE = {"better": "green", "worse": "red", "no difference detected": "yellow"}
_MARK = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "missing": "[red]✗[/]"}
_DEMO_MINUTES = 10


def demo_budget(recipe: Recipe, reporter: Reporter) -> None:
    """The first line of the demo: what it costs and what it will do."""
    reporter.say(
        f"Veritune demo: at most {_DEMO_MINUTES} minutes on 2 cores, no hub, no GPU.\n"
        "  1. unpack the bundled SmolLM2-135M-Instruct (once)      about ½ min\n"
        "  2. mine question/answer pairs from Python's own library  seconds\n"
        f"  3. train LoRA r={recipe.lora.r} for {recipe.train.epochs:g} epochs"
        "                         about 4 min\n"
        f"  4. answer held-out questions with {len(recipe.evaluate.systems)} systems, compare"
        "      about 3 min\n"
        f"  Everything goes to {recipe.output_dir}; stop with Ctrl-C, run again to go on."
    )


def verdict(result: dict[str, Any], seconds: float) -> None:
    """The last screen of a run."""
    console = Console()
    style = _VERDICT_STYLE.get(str(result["verdict"]), "dim")
    console.print(
        Panel(
            escaped(str(result["sentence"])),
            title=f"[bold {style}]{escaped(str(result['verdict']))}[/]",
            border_style=style,
        )
    )
    _further(console, result)
    console.print(f"report   {escaped(result['report_html'])}", highlight=False, soft_wrap=True)
    console.print(f"run      {escaped(result['output_dir'])}", highlight=False, soft_wrap=True)
    console.print(f"time     {seconds // 60:.0f} min {seconds % 60:02.0f} s", highlight=False)


def plan(result: dict[str, Any]) -> None:
    """The plan as tables, then one example with its loss mask."""
    console = Console()
    table = Table(title="LoRA coverage")
    for name in ("modules", "found", "adapted", "r", "trainable"):
        table.add_column(name, justify="left" if name == "modules" else "right")
    for row in result["coverage"]:
        table.add_row(
            escaped(row["module"]),
            str(row["count"]),
            str(row["adapted"]) if row["adapted"] else "–",
            str(row["r"]) if row["r"] else "–",
            f"{row['parameters']:,}" if row["parameters"] else "–",
        )
    console.print(table)
    hidden = {"coverage", "example", "dropped", "bases", "sweep", "not_on_this_machine"}
    facts("plan", {name: value for name, value in result.items() if name not in hidden})
    for reason in result["not_on_this_machine"]:
        console.print(f"[yellow]not on this machine:[/] {escaped(reason)}", highlight=False)
    for base in result.get("bases", []):
        facts("one of several bases", base)
    if "sweep" in result:
        searched = result["sweep"]["searched"]
        facts("the sweep, all configurations", {**result["sweep"], "searched": _lines(searched)})
    for name, count in result["dropped"].items():
        console.print(f"  dropped by {escaped(name)}: {count:,}", highlight=False)
    example = result["example"]
    console.print("\n[bold]One example[/]: dim is the prompt (not supervised), bright is learned")
    console.print(
        f"[dim]{escaped(example['prompt'])}[/][green]{escaped(example['supervised'])}[/]",
        highlight=False,
    )


def training(log: Path, result: dict[str, Any]) -> None:
    """The table of losses and the summary, as trainers print them."""
    table = Table(title="training")
    for name in ("step", "training loss", "validation loss", ""):
        table.add_column(name, justify="right")
    for event in read_log(log):
        if event["event"] == "evaluation":
            table.add_row(
                str(event["step"]),
                f"{event['training_loss']:.6f}",
                f"{event['validation_loss']:.6f}",
                "best" if event["step"] == result.get("best_step") else "",
            )
    Console().print(table)
    facts("summary", result)


def conclusion(result: dict[str, Any]) -> None:
    """The verdict and a line per comparison on the primary metric."""
    console = Console()
    console.print(f"[bold]{escaped(result['verdict'])}[/]: {escaped(result['sentence'])}")
    _further(console, result)
    against = "" if "n_common" in result else ": adapted against the others"
    table = Table(title=f"{escaped(str(result['primary_metric']))}{against}")
    for name in ("against", "adapted", "other", "difference", "95 % interval", "verdict"):
        table.add_column(name, justify="right")
    for row in result["comparisons"]:
        if row["metric"] != result["primary_metric"]:
            continue
        interval = (
            "not measured"
            if row["ci_low"] is None
            else f"{row['ci_low']:+.1f} … {row['ci_high']:+.1f}"
        )
        table.add_row(
            escaped(row["against"]),
            f"{row['value']:.1f}",
            f"{row['against_value']:.1f}",
            f"{row['delta']:+.1f}",
            interval,
            escaped(row["verdict"]),
        )
    console.print(table)
    if any(_taken_back(row) for row in result["comparisons"]):
        console.print(
            "[dim]Against any but the best baseline a verdict must also survive Holm's correction"
            " for many comparisons.[/]",
            highlight=False,
        )


def _taken_back(row: dict[str, Any]) -> bool:
    """Whether the interval excludes zero and the verdict does not follow it."""
    low, high = row["ci_low"], row["ci_high"]
    return row["verdict"] == "no difference detected" and low is not None and low * high > 0


def _further(console: Console, result: dict[str, Any]) -> None:
    for name in ("seeds", "learning_curve"):
        if sentence := result.get(name, {}).get("sentence"):
            console.print(escaped(sentence), highlight=False)


def doctor(result: dict[str, Any]) -> None:
    """One line per finding, with what is missing and the fix."""
    console = Console()
    for row in result["findings"]:
        console.print(
            f"{_MARK[row['state']]} {escaped(row['name']):<16} {escaped(row['value'])}",
            highlight=False,
            soft_wrap=True,
        )
        if row["without"]:
            fix = f"; to change: {row['fix']}" if row["fix"] else ""
            console.print(
                f"[dim]  {'':<16} without it: {escaped(row['without'] + fix)}[/]",
                highlight=False,
                soft_wrap=True,
            )
    shown = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    console.print(f"[dim]{escaped(shown)}[/]", highlight=False, soft_wrap=True)


def scores(result: dict[str, Any]) -> None:
    """One line per metric, then the outcomes and what was not measured."""
    console = Console()
    table = Table(title="scores")
    for name in ("metric", "value", "rows"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, row in result["metrics"].items():
        table.add_row(escaped(name), f"{row['value']:.1f}", f"{row['n_examples']:,}")
    console.print(table)
    counts = Counter(row["outcome"] for row in result["examples"])
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
    console.print(f"outcomes: {escaped(shown)}", highlight=False)
    for row in result["broken_references"]:
        console.print(
            f"tests left out: {escaped(row['source'])}, whose reference does not pass them:"
            f" {escaped(row['outcome'])} ({escaped(row['detail'])})",
            highlight=False,
            soft_wrap=True,
        )
    for row in result["not_measured"]:
        console.print(f"not measured: {escaped(row['what'])} ({escaped(row['why'])})")


def sandbox(result: dict[str, Any]) -> None:
    """One line per canary, then whether generated code can be run."""
    console = Console()
    for row in result["canaries"]:
        mark = _MARK["ok" if row["held"] else "missing"]
        detail = f"  {row['detail']}" if row["detail"] else ""
        console.print(
            f"{mark} {escaped(row['name']):<36} {row['outcome']:<14}[dim]{escaped(detail)}[/]",
            highlight=False,
            soft_wrap=True,
        )
    if result["available"]:
        console.print("[green]the sandbox holds[/]: functional metrics can be measured")
    else:
        console.print(
            f"[red]no sandbox[/]: {escaped(result['missing'])}; generated code is not run and"
            " functional metrics are not measured",
            highlight=False,
        )


def _lines(values: dict[str, str]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in values.items())


def facts(title: str, values: dict[str, Any]) -> None:
    """Names and numbers in two columns."""
    table = Table(title=escaped(title), show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right", overflow="fold")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            shown = str(value)
        else:
            shown = f"{value:,}" if abs(value) < 10**15 else f"{value:.4g}"
        table.add_row(escaped(name), escaped(shown))
    Console().print(table)
