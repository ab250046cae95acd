"""``sweep.html``: every configuration as a line and as a row, on one self-contained page."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files as resource_files
from typing import Any

from markupsafe import Markup

from veritune.report.parallel import Line, parallel_coordinates
from veritune.report.sweep import NOTE, settings_text, sweep_rows, sweep_sentence
from veritune.report.wording import count, duration, fixed, mapping, one_line, rows_of

_ORDER = {"repeated": 0, "diverged": 0, "stopped": 1, "finished": 2}


def render_sweep(table: dict[str, Any]) -> str:
    """The page as text: no script, nothing loaded from elsewhere, every text escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("veritune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = rows_of(table.get("rows"))
    head, cells = sweep_rows(table, rows)
    style = _style()
    chosen = next((i for i, r in enumerate(rows) if r.get("number") == table.get("chosen")), None)
    page = environment.get_template("sweep.html.j2").render(
        style=Markup(style),  # noqa: S704
        policy=f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none';"
        f" style-src '{_source_hash(style)}'; style-src-attr 'unsafe-inline'",
        winner=settings_text(mapping(table.get("settings"))),
        sentence=sweep_sentence(table),
        facts=_facts(table),
        figure=_figure(table, rows),
        head=head,
        cells=cells,
        statuses=[str(row.get("status")) for row in rows],
        chosen=chosen,
        note=NOTE,
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def _facts(table: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Search", one_line(table.get("method"))),
        ("Configurations", count(table.get("n_configurations"))),
        ("Trained to the end", count(table.get("n_finished"))),
        ("Stopped early", count(table.get("n_stopped"))),
        ("Diverged", count(table.get("n_diverged"))),
        ("Optimizer steps", count(table.get("steps"))),
        ("Training time", duration(table.get("seconds"))),
    ]


def _figure(table: dict[str, Any], rows: list[dict[str, Any]]) -> Markup:
    names = list(mapping(rows[0].get("settings"))) if rows else []
    drawn = [row for row in rows if row.get("status") != "repeated"]
    drawn.sort(key=lambda row: (_ORDER.get(str(row.get("status")), 0), -(row.get("rank") or 0)))
    # The winner last, above all others.
    drawn.sort(key=lambda row: row.get("number") == table.get("chosen"))
    lines = []
    for row in drawn:
        settings, status = mapping(row.get("settings")), str(row.get("status"))
        kind = "winner" if row.get("number") == table.get("chosen") else status
        loss = row.get("validation_loss")
        lines.append(
            Line(
                f"is-{kind if kind in (*_ORDER, 'winner') else 'stopped'}",
                f"{settings_text(settings)}: {fixed(loss, 4)} ({status})",
                (*(settings.get(name) for name in names), loss),
            )
        )
    description = f"Parallel coordinates. {sweep_sentence(table)}"
    return parallel_coordinates([*names, "validation loss"], lines, description)


def _style() -> str:
    folder = resource_files("veritune.report") / "templates"
    sheets = ("report.css", "sweep.css")
    return "".join((folder / name).read_text(encoding="utf-8") for name in sheets)


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
