"""`veritune sweep`: prepare, search, choose on validation, evaluate the winner once, report."""

from __future__ import annotations

from typing import Any

from veritune.atomic import write_text
from veritune.errors import RunDirectoryError
from veritune.model.other_adapters import find_adapters
from veritune.pipeline.context import Context
from veritune.pipeline.evaluate import evaluate_stage
from veritune.pipeline.machine import refuse_undoable
from veritune.pipeline.prepare import prepare_stage
from veritune.pipeline.primary_metric import with_fixed_metric
from veritune.pipeline.run import report_stage
from veritune.pipeline.swept import swept
from veritune.report.sweep_page import render_sweep
from veritune.sweep.bench import open_bench
from veritune.sweep.space import refuse_unsearchable
from veritune.sweep.sweep import search_space
from veritune.sweep.winner import choose, read_table, refuse_unchoosable


def sweep_all(context: Context) -> dict[str, Any]:
    """Everything; what is on disk already is not done again.

    Returns:
        What ``sweep --json`` prints.

    Raises:
        RecipeError: nothing that can be searched.
        RunDirectoryError: the folder holds a run that was trained without a sweep, or another.
        EnvironmentFault, DataError: the finalists could not be compared as the recipe says.
    """
    refuse_unsearchable(context.recipe)
    find_adapters(context.recipe.evaluate.adapters)
    refuse_undoable(context.run, context.recipe)
    run = context.run
    with run.lock():
        if run.is_trained() and not swept(run):
            raise RunDirectoryError(
                "output_dir holds a run that was trained without a sweep",
                received=run.path,
                accepted="a new folder, an empty one, or this sweep's own",
                next_step="--set output_dir=ANOTHER",
            )
        rows = prepare_stage(context)
        context = with_fixed_metric(context)
        refuse_unchoosable(context)
        bench = open_bench(context)
        context = choose(context, bench, search_space(context, bench))
        # The winner's evaluation loads the base again; two would need the room of both.
        del bench
        conclusion = evaluate_stage(context)
        table = read_table(context)
        page = run.path / "sweep.html"
        write_text(page, render_sweep(table))
        html, markdown = report_stage(context)
    return {
        "output_dir": str(run.path),
        "sweep": {name: value for name, value in table.items() if name not in ("rows", "asked")},
        "configurations": table["rows"],
        "winner": next(row for row in table["rows"] if row["number"] == table["chosen"]),
        "verdict": conclusion["verdict"],
        "sentence": conclusion["sentence"],
        "primary_metric": conclusion["primary_metric"],
        "best_baseline": conclusion["best_baseline"],
        "comparisons": conclusion["comparisons"],
        "data": rows,
        "sweep_html": str(page),
        "report_html": str(html),
        "report_md": str(markdown),
    }
