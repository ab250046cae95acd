"""Can training examples be told from unseen ones by how much their loss fell?

The area under the ROC curve of (baseline loss - adapted loss): 0.5 where training left no
trace of single examples, 1 where each can be told.  Valid because the split is random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from veritune.compare.statistics import MIN_CLUSTERS
from veritune.rows import Loss
from veritune.score.metric import Array

_RESAMPLES = 4_000


def auroc(above: Array, below: Array) -> float:
    """Probability that a value of ``above`` exceeds one of ``below``; ties count half."""
    return float(_wins(above, below).mean())


def loss_gap(
    losses: Sequence[Loss], splits: Mapping[str, str], clusters: Mapping[str, str], *, seed: int
) -> dict[str, Any]:
    """AUROC with its interval, and mean losses per completion token; empty without losses."""
    by_system: dict[str, dict[str, Loss]] = {}
    for row in losses:
        by_system.setdefault(row.system, {})[row.example_id] = row
    base, adapted = by_system.get("baseline", {}), by_system.get("adapted", {})
    names = {
        split: sorted(name for name in base.keys() & adapted.keys() if splits.get(name) == split)
        for split in ("train", "test")
    }
    if not all(names.values()):
        return {}
    fell = {
        split: np.array([base[name].loss - adapted[name].loss for name in found])
        for split, found in names.items()
    }
    wins = _wins(fell["train"], fell["test"])
    groups = [_membership([clusters[name] for name in names[split]]) for split in names]
    low, high = _interval(wins, groups, seed)
    return {
        "auroc": float(wins.mean()),
        "ci_low": low,
        "ci_high": high,
        "n_train": len(names["train"]),
        "n_test": len(names["test"]),
        "mean_loss": [
            {
                "system": system,
                "split": split,
                "loss": float(
                    sum(rows[name].loss * rows[name].n_tokens for name in found)
                    / sum(rows[name].n_tokens for name in found)
                ),
            }
            for system, rows in (("baseline", base), ("adapted", adapted))
            for split, found in names.items()
        ],
    }


def _wins(above: Array, below: Array) -> Array:
    difference = above[:, None] - below[None, :]
    return np.asarray((difference > 0) + 0.5 * (difference == 0), dtype=np.float64)


def _membership(clusters: Sequence[str]) -> Array:
    """Shape [clusters, examples], 1 where the example is in the cluster."""
    order = sorted(set(clusters))
    table = np.zeros((len(order), len(clusters)))
    for column, name in enumerate(clusters):
        table[order.index(name), column] = 1.0
    return table


def _interval(wins: Array, groups: Sequence[Array], seed: int) -> tuple[float | None, float | None]:
    """Percentile interval over resampled clusters of both splits."""
    if min(len(group) for group in groups) < MIN_CLUSTERS:
        return None, None
    rng = np.random.default_rng([seed, 13])
    weights = [
        rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=_RESAMPLES) @ group
        for group in groups
    ]
    totals = np.einsum("ri,ij,rj->r", weights[0], wins, weights[1], optimize=True)
    drawn = totals / (weights[0].sum(axis=1) * weights[1].sum(axis=1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
