"""Several training seeds: every metric of every adapter, and the spread."""

from __future__ import annotations

from veritune.report.load import RunFiles
from veritune.report.section import Section
from veritune.report.wording import (
    corpus,
    fixed,
    is_number,
    mapping,
    metric_label,
    rows_of,
    visible,
)


def make_seeds(files: RunFiles) -> Section | None:
    """The section; None if the recipe was trained once."""
    found = mapping(files.details("seeds"))
    seeds = found.get("seeds")
    rows = [
        row
        for row in rows_of(found.get("metrics"))
        if isinstance(seeds, list)
        and isinstance(row.get("values"), list)
        and len(row["values"]) == len(seeds)
    ]
    if not rows or not isinstance(seeds, list):
        return None
    names = [str(row.get("metric")) for row in rows]
    return Section(
        anchor="seeds",
        title="The same recipe with other training seeds",
        short="Training seeds",
        sentence=visible(found.get("sentence") or ""),
        head=("Metric", *(f"seed {fixed(seed, 0)}" for seed in seeds), "Mean", "Std. dev."),
        rows=[
            (
                metric_label(name),
                *(corpus(name, value) for value in row["values"]),
                corpus(name, row.get("mean")),
                fixed(row.get("sd"), 2) if is_number(row.get("sd")) else "",
            )
            for name, row in zip(names, rows, strict=True)
        ],
        marked=names.index(files.primary_metric) if files.primary_metric in names else None,
        mark="primary",
        note="Differences and intervals above are of the mean over these adapters, and count"
        " how much they differ. Answers shown one by one, what was memorised and McNemar’s"
        " test are of the first seed’s adapter, which is the one in adapter/.",
    )
