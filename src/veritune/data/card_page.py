"""The data card as one self-contained page."""

from __future__ import annotations

from itertools import pairwise
from typing import Any


def render_card(card: dict[str, Any]) -> str:
    """``card.html``: no scripts, nothing loaded from elsewhere, every text escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("veritune.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("card.html.j2").render(
        card=card, charts=[chart for chart in _charts(card) if chart]
    )
    # Names of files and columns may hold lone surrogates, which no file can.
    return page.encode("utf-8", "replace").decode("utf-8")


def _charts(card: dict[str, Any]) -> list[dict[str, Any] | None]:
    return [
        _chart(card["token_lengths"], "tokens"),
        _chart(card["character_lengths"], "characters"),
    ]


def _chart(lengths: dict[str, Any] | None, unit: str) -> dict[str, Any] | None:
    """Bars in percent of the highest one, for each of question and answer."""
    if lengths is None:
        return None
    edges = lengths["histogram"]["edges"]
    spans = [f"{low} to {high - 1}" for low, high in pairwise(edges)]
    rows = []
    for name, title in (("source", "questions"), ("target", "answers")):
        counts = lengths["histogram"][name]
        highest = max(counts, default=0) or 1
        rows.append(
            {
                "title": title,
                "summary": lengths[name],
                "bars": [
                    {"span": span, "count": count, "percent": round(100 * count / highest, 1)}
                    for span, count in zip(spans, counts, strict=True)
                ],
            }
        )
    return {"unit": unit, "rows": rows}
