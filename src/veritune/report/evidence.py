"""The differences and how sure they are: forest plots, values, signatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from veritune.report.axes import Axis
from veritune.report.figures import axis_track, forest_axis, interval_track
from veritune.report.headline import VERDICT_MARKS
from veritune.report.load import ORDER, RunFiles
from veritune.report.wording import (
    corpus,
    fixed,
    interval,
    metric_label,
    p_value,
    rows_of,
    signed,
    system_label,
    visible,
)
from veritune.rows import Comparison
from veritune.score import METRICS


@dataclass(frozen=True)
class Difference:
    """One comparison, ready to print; ``figure`` is its row of a forest plot."""

    metric: str
    against: str
    value: str
    against_value: str
    delta: str
    interval: str
    p_value: str
    p_holm: str
    p_mcnemar: str
    mde: str
    verdict: str
    kind: str
    symbol: str
    is_headline: bool
    figure: Markup


@dataclass(frozen=True)
class Forest:
    """Rows on one axis."""

    rows: list[Difference]
    axis: Markup


@dataclass(frozen=True)
class Evidence:
    """Section 2.

    Attributes:
        by_system: adapted against each other system on the primary metric.
        by_metric: adapted against the best baseline on every metric.
        everything: all comparisons, in one group for each other system.
        systems: names of the columns of ``values``.
        values: metric, one value per system on test, whether it is the primary one.
        signatures: metric and signature.
        statistics: how intervals and p-values were made.
    """

    primary: str
    best: str
    by_system: Forest
    by_metric: Forest
    everything: list[list[Difference]]
    systems: list[str]
    values: list[tuple[str, list[str], bool]]
    signatures: list[tuple[str, str]]
    statistics: str


def make_evidence(files: RunFiles) -> Evidence | None:
    """Section 2; None if nothing was compared."""
    conclusion = files.conclusion
    if conclusion is None or not conclusion.comparisons:
        return None
    primary, best = conclusion.primary_metric, conclusion.best_baseline
    rows = conclusion.comparisons
    on_primary = [row for row in rows if row.metric == primary]
    against_best = [row for row in rows if row.against == best]
    against_best.sort(key=lambda row: row.metric != primary)
    p_values = _PValues(files)
    systems, values = _values(files)
    return Evidence(
        primary=metric_label(primary),
        best=system_label(best),
        by_system=_forest(on_primary, p_values, primary, best),
        by_metric=_forest(against_best, p_values, primary, best),
        everything=[
            _forest([row for row in rows if row.against == other], p_values, primary, best).rows
            for other in dict.fromkeys(row.against for row in rows)
        ],
        systems=[system_label(name) for name in systems],
        values=values,
        signatures=_signatures(files),
        statistics=_statistics(rows),
    )


class _PValues:
    """The corrected and the exact p-values of ``comparison.json``."""

    def __init__(self, files: RunFiles) -> None:
        self.holm = _lookup(files, "holm", "p_holm")
        self.mcnemar = _lookup(files, "mcnemar", "p_value")


def _lookup(files: RunFiles, table: str, value: str) -> dict[tuple[str, str], object]:
    return {
        (str(row.get("metric")), str(row.get("against"))): row.get(value)
        for row in rows_of(files.details(table))
    }


def _forest(rows: Sequence[Comparison], p_values: _PValues, primary: str, best: str) -> Forest:
    axis = forest_axis([(row.delta, row.ci_low, row.ci_high, row.mde) for row in rows])
    return Forest(
        [_difference(row, axis, p_values, primary, best) for row in rows], axis_track(axis)
    )


def _difference(
    row: Comparison, axis: Axis, p_values: _PValues, primary: str, best: str
) -> Difference:
    kind, symbol = VERDICT_MARKS.get(row.verdict, VERDICT_MARKS["not measured"])
    is_headline = row.metric == primary and row.against == best
    place = (row.metric, row.against)
    return Difference(
        metric=metric_label(row.metric),
        against=system_label(row.against),
        value=corpus(row.metric, row.value),
        against_value=corpus(row.metric, row.against_value),
        delta=signed(row.delta),
        interval=interval(row.ci_low, row.ci_high),
        p_value=p_value(row.p_value),
        p_holm="primary" if is_headline else p_value(p_values.holm.get(place)),
        p_mcnemar=p_value(p_values.mcnemar.get(place)),
        mde=fixed(row.mde),
        verdict=visible(row.verdict),
        kind=kind,
        symbol=symbol,
        is_headline=is_headline,
        figure=interval_track(axis, row.delta, row.ci_low, row.ci_high, mde=row.mde, kind=kind),
    )


def _values(files: RunFiles) -> tuple[list[str], list[tuple[str, list[str], bool]]]:
    table: dict[tuple[str, str], object] = {}
    for row in rows_of(files.details("metrics")):
        if row.get("split") == "test":
            table[str(row.get("system")), str(row.get("metric"))] = row.get("value")
    for pair in files.conclusion.comparisons if files.conclusion else ():
        table.setdefault((pair.system, pair.metric), pair.value)
        table.setdefault((pair.against, pair.metric), pair.against_value)
    found = {system for system, _ in table}
    known = [name for name in ORDER if name in found]
    systems = [*known, *sorted(found - {*known, "reference"})]
    metrics = sorted({metric for _, metric in table}, key=_order(files.primary_metric))
    return systems, [
        (
            metric_label(metric),
            [corpus(metric, table.get((system, metric))) for system in systems],
            metric == files.primary_metric,
        )
        for metric in metrics
    ]


def _order(primary: str) -> Callable[[str], tuple[bool, int, str]]:
    known = list(METRICS)
    return lambda name: (
        name != primary,
        known.index(name) if name in known else len(known),
        name,
    )


def _signatures(files: RunFiles) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for row in rows_of(files.details("metrics")):
        if row.get("signature"):
            found.setdefault(str(row.get("metric")), visible(row["signature"]))
    for pair in files.conclusion.comparisons if files.conclusion else ():
        found.setdefault(pair.metric, visible(pair.signature))
    return [(metric_label(name), text) for name, text in found.items()]


def _statistics(rows: Sequence[Comparison]) -> str:
    """What the comparisons' signatures say after the metric's own part, if all agree."""
    endings = {
        "|".join(part for part in row.signature.split("|") if part.startswith(_STATISTICS))
        for row in rows
    }
    return visible(endings.pop()) if len(endings) == 1 else ""


_STATISTICS = ("interval:", "p:", "resamples:", "seed:")
