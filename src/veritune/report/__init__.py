"""The report: one page and one Markdown file, rebuilt from a run's files on any machine."""

from __future__ import annotations

from pathlib import Path


def build_report(run_dir: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a run directory.

    Stages that were not run, and files that cannot be read, become plain sentences.

    Returns:
        The paths of the page and of the Markdown file.

    Raises:
        RunDirectoryError: there is no such folder.
        DiskFault: the folder cannot be written.
    """
    from veritune.atomic import write_text
    from veritune.report.html import render_html
    from veritune.report.load import load_run
    from veritune.report.markdown import render_markdown
    from veritune.report.view import make_view

    view = make_view(load_run(run_dir))
    page, text = run_dir / "report.html", run_dir / "report.md"
    write_text(page, render_html(view))
    write_text(text, render_markdown(view))
    return page, text


__all__ = ["build_report"]
