"""What `veritune serve` prints once it answers."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from veritune.visible_text import escaped


def serving(facts: dict[str, Any]) -> None:
    """Where it answers and to whom; on stderr, since stdout is for results."""
    console = Console(stderr=True)
    url = escaped(str(facts["url"]))
    lines = [
        ("page", url),
        ("API", f"{url}/v1  (OpenAI-compatible)"),
        ("models", escaped(", ".join(facts["models"]))),
        ("base", escaped(str(facts["base"]))),
        ("engine", escaped(str(facts["engine"]))),
        ("key", "needed" if facts["api_key"] else "none; only this machine can reach it"),
    ]
    for name, text in lines:
        console.print(f"  [dim]{name:<7}[/] {text}", highlight=False, soft_wrap=True)
    console.print("  Ctrl-C stops; running answers are finished first.", highlight=False)
