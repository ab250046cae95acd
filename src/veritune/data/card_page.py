"""The data card as one self-contained page."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable
from importlib.resources import files as resource_files
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from veritune.data.charts import columns, curves, share
from veritune.data.differences import side_by_side
from veritune.data.findings.tasks import ACTIONS, SUBJECTS
from veritune.visible_text import visible

_TEXT_CHARACTERS = 4000
_SIDES = (("source", "questions"), ("target", "answers"))


def render_card(card: dict[str, Any]) -> str:
    """``card.html``: no scripts, nothing loaded from elsewhere, every text escaped.

    Characters that act unseen (bidirectional controls, zero width, controls) are shown by
    their numbers.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("veritune.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    style = _style()
    page = environment.get_template("card.html.j2").render(
        card=card,
        style=Markup(style),  # noqa: S704
        policy="default-src 'none'; base-uri 'none'; form-action 'none';"
        f" style-src '{_hash(style)}'",
        lengths=list(_lengths(card)),
        clusters=_clusters(card),
        measures=_measures(card),
        vocabulary=_vocabulary(card.get("vocabulary")),
        rules={"actions": ACTIONS, "subjects": SUBJECTS},
        pairs=[_pair(pair) for pair in card.get("leak_audit", {}).get("worst", [])],
        share=share,
        most=_TEXT_CHARACTERS,
    )
    # Names of files and columns may hold lone surrogates, which no file can.
    return page.encode("utf-8", "replace").decode("utf-8")


def _seen(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lengths(card: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name, unit in (("token_lengths", "tokens"), ("character_lengths", "characters")):
        lengths = card[name]
        if lengths is None:
            continue
        edges = lengths["histogram"]["edges"]
        labels, ticks = _spans(edges), [f"{low:,}" for low in edges[:-1]]
        for side, title in _SIDES:
            counts = lengths["histogram"][side]
            yield {
                "title": f"{title}, in {unit}",
                "summary": lengths[side],
                "figure": columns(labels, counts, side, f"Histogram of {title} by {unit}", ticks),
            }


def _measures(card: dict[str, Any]) -> list[dict[str, Any]]:
    shown = []
    for name, title in (("lines", "lines of an answer"), ("complexity", "cyclomatic complexity")):
        found = card[name]
        if found is not None:
            labels = _spans(found["histogram"]["edges"])
            # No answer has no branch and no line: an empty first bin says nothing.
            first = 1 if not found["histogram"]["counts"][0] else 0
            counts = found["histogram"]["counts"][first:]
            figure = columns(labels[first:], counts, "target", f"Histogram of {title}")
            shown.append({"title": title, "summary": found, "figure": figure})
    return shown


def _spans(edges: list[int]) -> list[str]:
    return [
        f"{low:,}" if high == low + 1 else f"{low:,}–{high - 1:,}" for low, high in pairwise(edges)
    ]


def _clusters(card: dict[str, Any]) -> Markup:
    sizes = card["clusters"]["sizes"]
    return columns(
        [item["size"] for item in sizes],
        [item["n_clusters"] for item in sizes],
        "other",
        "Number of clusters by their number of rows",
    )


def _vocabulary(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None

    def lines(name: str) -> list[tuple[str, list[tuple[float, float]]]]:
        return [(side, [(x, y) for x, y in found[side][name]]) for side, _ in _SIDES]

    return {
        "ranks": curves(
            lines("ranks"),
            logarithmic=True,
            description="Occurrences of words by their rank, both logarithmic",
        ),
        "growth": curves(
            lines("growth"),
            logarithmic=False,
            description="Different words by words read",
        ),
    }


def _pair(pair: dict[str, Any]) -> dict[str, Any]:
    """A pair of the leak audit with its differences marked."""
    texts = [
        side_by_side(_question(pair["held_out"]), _question(pair["train"]), visible),
        side_by_side(pair["held_out"]["reference"], pair["train"]["reference"], visible),
    ]
    rows = ((pair["split"], pair["held_out"]), ("train", pair["train"]))
    sides = [
        {
            "where": f"{split} · {row['source'] or row['example_id']}",
            "question": texts[0][place],
            "reference": texts[1][place],
        }
        for place, (split, row) in enumerate(rows)
    ]
    return {**pair, "sides": sides}


def _question(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n\n{row['input']}" if row["input"] else str(row["instruction"])


@functools.cache
def _style() -> str:
    return (resource_files("veritune.data") / "templates" / "card.css").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
