"""``report.html``: one self-contained page that asks nothing of the network.

Text of data and models is escaped by the templates and could not act if it were not: the
page's policy allows the one style sheet and the one script whose hashes it names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files as resource_files

from markupsafe import Markup

from veritune.compare import MIN_CLUSTERS
from veritune.report import figures
from veritune.report.view import View
from veritune.report.wording import OPTIONAL_SYSTEMS, SYSTEM_NOTES, system_label


def render_html(view: View) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("veritune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _asset("report.css"), _asset("report.js")
    compared = view.evidence.systems if view.evidence else []
    page = environment.get_template("report.html.j2").render(
        view=view,
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        policy=_policy(style, script),
        share_bar=figures.share_bar,
        min_clusters=MIN_CLUSTERS,
        system_notes=[
            (system_label(name), note)
            for name, note in SYSTEM_NOTES.items()
            if name not in OPTIONAL_SYSTEMS or system_label(name) in compared
        ],
    )
    return page.encode("utf-8", "replace").decode("utf-8")


@functools.cache
def _asset(name: str) -> str:
    return (resource_files("veritune.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none';"
        f" style-src '{_source_hash(style)}'; script-src '{_source_hash(script)}'"
    )


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
