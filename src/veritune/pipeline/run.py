"""prepare, train, evaluate, report, in this order."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from veritune.errors import RunDirectoryError
from veritune.model.other_adapters import find_adapters
from veritune.pipeline.choose_base import choose_base
from veritune.pipeline.context import Context
from veritune.pipeline.evaluate import evaluate_stage
from veritune.pipeline.machine import refuse_undoable
from veritune.pipeline.prepare import prepare_stage
from veritune.pipeline.primary_metric import with_fixed_metric
from veritune.pipeline.train import train_stage
from veritune.report import build_report

FURTHER = ("bases", "seeds", "learning_curve")
"""Tables of ``comparison.json`` that only several trainings give."""


def run_all(context: Context) -> dict[str, Any]:
    """Everything, skipping stages whose inputs are unchanged; return what ``run`` prints."""
    # Hours before it is needed, a wrong path or a missing device should be said.
    find_adapters(context.recipe.evaluate.adapters)
    refuse_undoable(context.run, context.recipe)
    with context.run.lock():
        rows = prepare_stage(context)
        context = choose_base(with_fixed_metric(context))
        summary = train_stage(context)
        conclusion = evaluate_stage(context)
        html, markdown = report_stage(context)
    return {
        "output_dir": str(context.run.path),
        "verdict": conclusion["verdict"],
        "sentence": conclusion["sentence"],
        "primary_metric": conclusion["primary_metric"],
        "best_baseline": conclusion["best_baseline"],
        "comparisons": conclusion["comparisons"],
        **{name: conclusion[name] for name in FURTHER if name in conclusion},
        "data": rows,
        "train": summary,
        "report_html": str(html),
        "report_md": str(markdown),
    }


def report_stage(context: Context) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` from the run's files."""
    if not context.run.split_file("train").is_file():
        raise RunDirectoryError(
            "the run has nothing to report yet",
            received=context.run.path,
            accepted="a run directory with at least prepared data",
            next_step=f"veritune run {context.run.path}",
        )
    started = time.perf_counter()
    pages = build_report(context.run.path)
    context.reporter.say(f"report: {pages[0]} ({time.perf_counter() - started:.1f} s)")
    return pages
