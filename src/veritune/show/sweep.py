"""What a sweep prints for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from veritune import show
from veritune.visible_text import escaped

_MOST_ROWS = 30


def sweep(result: dict[str, Any], seconds: float) -> None:
    """The table of configurations, best first, then the winner's verdict."""
    console, rows = Console(), result["configurations"]
    keys = list(rows[0]["settings"])
    has_metric = any("metric" in row for row in rows)
    about = result["sweep"]
    table = Table(title=f"{about['n_configurations']:,} configurations, chosen on validation")
    table.add_column("rank", justify="right")
    for key in keys:
        table.add_column(escaped(key.replace(".", ".\n")), justify="right", overflow="fold")
    for name in ("validation loss", *([about["metric"]] if has_metric else []), "steps"):
        table.add_column(escaped(name), justify="right")
    table.add_column("")
    for row in rows[:_MOST_ROWS]:
        style = "bold" if row["number"] == about["chosen"] else None
        loss, metric = row["validation_loss"], row.get("metric")
        table.add_row(
            "–" if row["rank"] is None else str(row["rank"]),
            *(escaped(_value(row["settings"][key])) for key in keys),
            "–" if loss is None else f"{loss:.4f}",
            *([f"{metric['value']:.1f}" if metric else "–"] if has_metric else []),
            f"{row['steps']:,}/{row['n_steps']:,}",
            escaped(row["status"]),
            style=style,
        )
    console.print(table)
    if len(rows) > _MOST_ROWS:
        console.print(f"[dim]{len(rows) - _MOST_ROWS:,} more in sweep.html and --json[/]")
    show.verdict(result, seconds)
    console.print(f"sweep    {escaped(result['sweep_html'])}", highlight=False, soft_wrap=True)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
