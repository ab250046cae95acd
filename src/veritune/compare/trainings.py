"""What further trainings add to a conclusion: the spread over seeds and the learning curve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veritune.compare.curve import learning_curve
from veritune.compare.pairs import Pairs, pair
from veritune.compare.seeds import seeds_table
from veritune.compare.tables import ScoreTable
from veritune.compare.variants import variants_of
from veritune.rows import Score

_ADAPTED, _BASELINE, _RETRIEVAL = "adapted", "baseline", "retrieval"


@dataclass(frozen=True)
class MainTraining:
    """The training that made ``adapted``.

    Attributes:
        seed: its training seed.
        n_rows: its training rows.
        margin: a gain in points below which more data is not worth having.
    """

    seed: int
    n_rows: int
    margin: float = 2.0


@dataclass(frozen=True)
class Trainings:
    """The main training, and the scores of further ones on test."""

    main: MainTraining
    scores: Sequence[Score]

    def pairs(
        self, metric: str, main: Pairs, against: Sequence[Score], clusters: Mapping[str, str]
    ) -> list[Pairs]:
        """The pairs of every seed, the main adapter's first."""
        further = variants_of(self.scores, _ADAPTED, "seed").values()
        scored = [rows for rows in further if any(row.metric == metric for row in rows)]
        return [main, *(pair(metric, rows, against, clusters) for rows in scored)]

    def details(
        self,
        table: ScoreTable,
        primary_metric: str,
        *,
        clusters: Mapping[str, str],
        resamples: int,
        seed: int,
    ) -> dict[str, Any]:
        """``seeds`` and ``learning_curve`` of ``comparison.json``, where there are any."""

        def on_test(system: str) -> dict[str, Sequence[Score]]:
            return {
                metric: rows
                for (split, name, metric), rows in table.items()
                if (split, name) == ("test", system)
            }

        seeds = {self.main.seed: on_test(_ADAPTED)}
        for value, rows in variants_of(self.scores, _ADAPTED, "seed").items():
            seeds[value] = _by_metric(rows)
        retrieval = self._sizes(_RETRIEVAL)
        if copied := on_test(_RETRIEVAL).get(primary_metric):
            retrieval[self.main.n_rows] = copied
        curve = learning_curve(
            primary_metric,
            {**self._sizes(_ADAPTED), self.main.n_rows: on_test(_ADAPTED)[primary_metric]},
            retrieval,
            on_test(_BASELINE).get(primary_metric, ()),
            clusters=clusters,
            margin=self.main.margin,
            resamples=resamples,
            seed=seed,
        )
        found = {"seeds": seeds_table(seeds, primary_metric), "learning_curve": curve}
        return {name: value for name, value in found.items() if value is not None}

    def _sizes(self, system: str) -> dict[int, Sequence[Score]]:
        return variants_of(self.scores, system, "rows")


def averaged(rows: Iterable[Mapping[str, Any]], seeds: Mapping[str, Any] | None) -> list[Any]:
    """The table of metrics with adapted's test values as means over seeds, as they are compared."""
    means = {row["metric"]: row["mean"] for row in seeds["metrics"]} if seeds else {}
    return [
        {**row, "value": means[row["metric"]], "n_seeds": len(seeds["seeds"])}
        if seeds and (row["system"], row["split"]) == (_ADAPTED, "test") and row["metric"] in means
        else dict(row)
        for row in rows
    ]


def _by_metric(rows: Iterable[Score]) -> dict[str, Sequence[Score]]:
    found: dict[str, list[Score]] = {}
    for row in rows:
        found.setdefault(row.metric, []).append(row)
    return dict(found)
