"""Rows that share a file stay in one split, so that a module's near-copies do not leak.

The unit of splitting is then what files and near-duplicates connect.  It is the unit of
statistics too, where the test split has enough of them and none outweighs the others; else the
near-duplicate clusters are, with a notice that the interval then speaks of these files alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np

from veritune.config import SplitSection
from veritune.data.split import split_rows, split_sizes
from veritune.errors import DataError
from veritune.rows import SPLITS, Split

# Fewer clusters than this are "not measured" (compare/statistics.py).
_MIN_CLUSTERS = 30
_LARGEST_SHARE = 0.25
_CAPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Grouped:
    """Rows divided with their groups kept whole.

    Attributes:
        splits: of each row; None for rows that no split asks for.
        cluster_ids: the unit of statistics of each row.
        notice: what did not work out as asked; empty if all did.
    """

    splits: list[Split | None]
    cluster_ids: list[str]
    notice: str = ""


def split_grouped(
    groups: Sequence[str],
    cluster_ids: Sequence[str],
    section: SplitSection,
    seed: int,
    among: Sequence[Split] = SPLITS,
    *,
    wanted: Sequence[bool] = (),
) -> Grouped:
    """Divide rows so that neither a group nor a cluster has rows in two splits.

    Where the sizes leave rows over, rows are taken from many groups, a few of each: they tell
    more than many rows of few groups.

    Args:
        groups: name of each row's group; empty for a row by itself.
        wanted: rows that the test split takes first, and all of, where rows are left over and
            as long as that leaves room for thirty units.

    Raises:
        DataError: there are fewer rows than asked for, or a split would have none.
    """
    if not any(groups) or section.method != "clusters" or tuple(among) == ("train",):
        return Grouped(split_rows(cluster_ids, section, seed, among), list(cluster_ids))
    units = linked(cluster_ids, groups)
    sizes = split_sizes(len(units), section, among)
    splits = _spread(units, sizes, seed, wanted) or _whole(units, sizes, section, seed)
    if splits is None:
        return Grouped(
            split_rows(cluster_ids, section, seed, among),
            list(cluster_ids),
            f"the {len(set(units))} groups of files are too few or too unequal to be divided, so"
            " functions are: rows of one file are in more than one split",
        )
    in_test = Counter(unit for unit, split in zip(units, splits, strict=True) if split == "test")
    share = max(in_test.values(), default=0) / max(1, in_test.total())
    if "test" not in sizes or (len(in_test) >= _MIN_CLUSTERS and share <= _LARGEST_SHARE):
        return Grouped(splits, units)
    why = (
        f"under {_MIN_CLUSTERS}"
        if len(in_test) < _MIN_CLUSTERS
        else f"one of which has {share:.0%} of them"
    )
    return Grouped(
        splits,
        list(cluster_ids),
        f"the test rows come from {len(in_test)} groups of files, {why}: intervals take"
        " functions as their unit, so they speak of these files, not of new ones",
    )


def linked(cluster_ids: Sequence[str], groups: Sequence[str]) -> list[str]:
    """What clusters and groups connect: each row's unit, named by its first cluster."""
    parent = {cluster: cluster for cluster in cluster_ids}

    def find(cluster: str) -> str:
        while parent[cluster] != cluster:
            parent[cluster] = parent[parent[cluster]]
            cluster = parent[cluster]
        return cluster

    first: dict[str, str] = {}
    for cluster, group in zip(cluster_ids, groups, strict=True):
        if group:
            low, high = sorted((find(first.setdefault(group, cluster)), find(cluster)))
            parent[high] = low
    return [find(cluster) for cluster in cluster_ids]


def _spread(
    units: Sequence[str], sizes: dict[Split, int], seed: int, wanted: Sequence[bool]
) -> list[Split | None] | None:
    """Few rows of each of many units, where rows are left over; None where that cannot be."""
    if sum(sizes.values()) >= len(units) or "train" not in sizes:
        return None
    order = np.random.default_rng(seed).permutation(len(units)).tolist()
    members: dict[str, list[int]] = {}
    for place in sorted(order, key=lambda place: not (wanted and wanted[place])):
        members.setdefault(units[place], []).append(place)
    order = np.random.default_rng([seed, 1]).permutation(len(members)).tolist()
    shuffled = [list(members.values())[number] for number in order]
    # Taken from the end: the test split gets the units that have wanted rows.
    shuffled.sort(key=lambda rows: bool(wanted) and wanted[rows[0]])
    n_wanted = [sum(wanted[place] for place in rows) if wanted else 0 for rows in shuffled]
    found = (_filled(shuffled, n_wanted, sizes, cap, len(units)) for cap in _CAPS)
    return next((splits for splits in found if splits is not None), None)


def _filled(
    units: Sequence[list[int]],
    n_wanted: Sequence[int],
    sizes: dict[Split, int],
    cap: int,
    n_rows: int,
) -> list[Split | None] | None:
    """Splits of exactly the sizes; None where the units do not suffice.

    Args:
        units: rows of each unit, wanted ones first; taken from the end.
        n_wanted: wanted rows of each unit.
        cap: rows that a held-out split takes of one unit; of wanted rows test takes more.
    """
    result: list[Split | None] = [None] * n_rows
    more = _beyond(units, n_wanted, cap, sizes.get("test", 0))
    for place in more:
        result[place] = "test"
    waiting = list(units)
    for split in ("test", "validation"):
        missing = sizes.get(split, 0) - (len(more) if split == "test" else 0)
        while missing and waiting:
            for place in waiting.pop()[: min(cap, missing)]:
                result[place] = split
                missing -= 1
        if missing:
            return None
    in_turn = (place for rank in zip_longest(*waiting) for place in rank if place is not None)
    chosen = list(islice(in_turn, sizes["train"]))
    for place in chosen:
        result[place] = "train"
    return result if len(chosen) == sizes["train"] else None


def _beyond(units: Sequence[list[int]], n_wanted: Sequence[int], cap: int, size: int) -> list[int]:
    """Wanted rows that the test split takes beyond its cap, in turn of the units that have them."""
    having = [(rows, count) for rows, count in zip(units, n_wanted, strict=True) if count]
    room = max(0, size - cap * max(_MIN_CLUSTERS, len(having)))
    in_turn = zip_longest(*(rows[cap:count] for rows, count in having))
    return list(islice((place for rank in in_turn for place in rank if place is not None), room))


def _whole(
    units: Sequence[str], sizes: dict[Split, int], section: SplitSection, seed: int
) -> list[Split | None] | None:
    """Whole units; None where a split would get under half or over twice what it asks for."""
    try:
        splits = split_rows(units, section, seed, tuple(sizes))
    except DataError:
        return None
    counts = Counter(splits)
    fits = all(size <= 2 * counts[split] and counts[split] <= 2 * size + 1
               for split, size in sizes.items())  # fmt: skip
    return splits if fits else None
