"""What ``veritune export`` prints for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from veritune.export.formats import FORMATS, QUANTISED
from veritune.visible_text import escaped


def export(result: dict[str, Any]) -> None:
    """Where the export is, what the gate found, and what was lost by quantising."""
    console = Console()
    gates = result["gates"]
    table = Table(title=f"the gate: passed on {gates[0]['n_prompts']} held-out questions")
    for name in ("", "wanted", *(str(gate["by"]) for gate in gates), "the base"):
        table.add_column(escaped(name), justify="left" if not name else "right")
    tolerance, base, n = gates[0]["tolerance"], gates[0]["base"], gates[0]["n_prompts"]
    sides = [*(gate["export"] for gate in gates), base]
    table.add_row(
        "nats a token away from the adapter",
        f"≤ {tolerance['logprob']:g}",
        *(f"{side['logprob']:.4f}" for side in sides),
    )
    table.add_row(
        "same likeliest token",
        f"≥ {tolerance['likeliest']:.1%}",
        *("–" if side["likeliest"] is None else f"{side['likeliest']:.1%}" for side in sides),
    )
    table.add_row(
        "same greedy answers",
        f"≥ {gates[0]['equal_answers']}",
        *(f"{side['same_answers']} / {n}" for side in sides),
    )
    console.print(table)
    for gate in gates:
        if result["precision"] in QUANTISED:
            console.print(escaped(loss_sentence(gate)), highlight=False, soft_wrap=True)
    for note in result["notes"]:
        console.print(f"[yellow]·[/] {escaped(note)}", highlight=False, soft_wrap=True)
    size = sum(file["bytes"] for file in result["files"].values())
    content = FORMATS[result["format"]].content
    console.print(
        f"{escaped(result['output'])}: {content}, {size / 2**20:.0f} MiB",
        highlight=False,
        soft_wrap=True,
    )


def loss_sentence(gate: dict[str, Any]) -> str:
    """What an export's answers lost against the adapter's, in chrF points."""
    row = gate["chrf"]
    interval = (
        f"no interval: {row['n_clusters']} clusters are too few"
        if row["ci_low"] is None
        else f"95 % interval [{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]"
    )
    return (
        f"quantised, by {gate['by']}: chrF {row['value']:.1f} against the adapter's"
        f" {row['against_value']:.1f}, {row['delta']:+.1f} points ({interval})"
        f" on {row['n_examples']} questions"
    )
