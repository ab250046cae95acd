"""Two systems' scores on the same examples, summed by cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from veritune.errors import DataError
from veritune.rows import Score
from veritune.score.metric import Array


@dataclass(frozen=True, slots=True)
class Pairs:
    """One metric of two systems.

    Attributes:
        system, against: statistics summed by cluster, both of shape [C, S]; clusters in the
            order of their ids.
        wins, losses: examples, the first of each cluster, where the value of ``system`` is
            above or below that of ``against``.
    """

    n_examples: int
    system: Array
    against: Array
    wins: int
    losses: int

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.system)


def pair(
    metric: str,
    system: Sequence[Score],
    against: Sequence[Score],
    clusters: Mapping[str, str],
) -> Pairs:
    """Pair the two systems' scores of ``metric``; the order of rows does not matter.

    Raises:
        DataError: the systems do not answer the same examples, or one has no cluster.
    """
    one = {row.example_id: row for row in system if row.metric == metric}
    other = {row.example_id: row for row in against if row.metric == metric}
    if not one or one.keys() != other.keys():
        names = sorted({row.system for row in (*system, *against)})
        raise DataError(
            f"these systems do not answer the same examples ({metric})",
            received=f"{' and '.join(names)}: {len(one)} and {len(other)} answers,"
            f" {len(one.keys() & other.keys())} in common",
            accepted="one answer of each system to each example",
            next_step="evaluate again, so that every system answers every example",
        )
    if missing := sorted(one.keys() - clusters.keys()):
        raise DataError(
            "a score belongs to no example",
            received=missing[0],
            accepted="the ids of the prepared examples",
            next_step="score the predictions again",
        )
    ids = sorted(one, key=lambda name: (clusters[name], name))
    names = [clusters[name] for name in ids]
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    firsts = [(one[ids[i]].value, other[ids[i]].value) for i in starts]
    return Pairs(
        n_examples=len(ids),
        system=_sums([one[name].stats for name in ids], starts),
        against=_sums([other[name].stats for name in ids], starts),
        wins=sum(a > b for a, b in firsts),
        losses=sum(a < b for a, b in firsts),
    )


def _sums(stats: Sequence[Sequence[float]], starts: Sequence[int]) -> Array:
    return np.add.reduceat(np.array(stats, dtype=np.float64), starts, axis=0)
