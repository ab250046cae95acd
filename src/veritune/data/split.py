"""Divide rows into train, validation and test.

``clusters`` puts whole clusters into one split, so that no test row has a near-copy in
training.  ``head`` and ``random`` take single rows and may tear clusters apart; how many they
tear is counted by ``leaked_clusters``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from veritune.config import SplitSection
from veritune.errors import DataError
from veritune.rows import SPLITS, Split

_FILL_ORDER: tuple[Split, ...] = ("test", "validation", "train")


def split_rows(
    cluster_ids: Sequence[str],
    section: SplitSection,
    seed: int,
    among: Sequence[Split] = SPLITS,
) -> list[Split | None]:
    """The split of each row; None for rows that no split asks for.

    Sizes are met exactly by ``head`` and ``random``, and by ``clusters`` as closely as whole
    clusters allow.

    Args:
        among: the splits to fill; the sizes of others are ignored.

    Raises:
        DataError: there are fewer rows than asked for, or a split would have none.
    """
    if tuple(among) == ("train",):
        return ["train"] * len(cluster_ids)
    sizes = split_sizes(len(cluster_ids), section, among)
    if section.method == "clusters":
        result = _by_clusters(
            cluster_ids, sizes, _taker_of_rest(sizes, section, len(cluster_ids)), seed
        )
    else:
        order: Sequence[int] = range(len(cluster_ids))
        if section.method == "random":
            order = np.random.default_rng(seed).permutation(len(cluster_ids)).tolist()
        result = _in_order(order, sizes, len(cluster_ids))
    for split in among:
        if split not in result:
            raise _empty_split(split, len(cluster_ids), section, cluster_ids)
    return result


def split_sizes(
    n_rows: int, section: SplitSection, among: Sequence[Split] = SPLITS
) -> dict[Split, int]:
    """Rows asked for by each split; the one set to null gets what the others leave.

    Shares are of all rows, rounded; where rounding asks for more rows than there are, the
    largest share gives way, and shares that add up to 1 leave no row over.

    Raises:
        DataError: more rows are asked for than there are, or a split would have none.
    """
    wanted = {split: getattr(section, split) for split in among}
    sizes = {
        split: math.floor(size * n_rows + 0.5) if isinstance(size, float) else size
        for split, size in wanted.items()
        if size is not None
    }
    shares = [split for split in sizes if isinstance(wanted[split], float)]
    rest = [split for split in among if wanted[split] is None]
    if shares and not rest:
        excess = sum(sizes.values()) - n_rows
        covers_all = len(shares) == len(among) and math.isclose(sum(wanted.values()), 1)
        exact = sum(size * n_rows if isinstance(size, float) else size for size in wanted.values())
        if (excess > 0 and exact <= n_rows) or covers_all:
            sizes[max(shares, key=lambda split: sizes[split])] -= excess
    left = n_rows - sum(sizes.values())
    if left < 0 or (rest and left == 0):
        raise DataError(
            "there are not enough rows for the splits",
            received=f"{n_rows} rows; {_in_words(section)}",
            accepted="sizes that together leave at least one row for every split",
            next_step=f"make the splits smaller, or give more data than {n_rows} rows",
        )
    sizes.update(dict.fromkeys(rest, left))
    for split in among:
        if sizes[split] <= 0:
            raise _empty_split(split, n_rows, section)
    return sizes


def leaked_clusters(cluster_ids: Sequence[str], splits: Sequence[Split | None]) -> int:
    """How many clusters have rows in more than one split."""
    found: dict[str, set[Split]] = defaultdict(set)
    for cluster, split in zip(cluster_ids, splits, strict=True):
        if split is not None:
            found[cluster].add(split)
    return sum(len(names) > 1 for names in found.values())


def _in_order(order: Sequence[int], sizes: dict[Split, int], n_rows: int) -> list[Split | None]:
    result: list[Split | None] = [None] * n_rows
    start = 0
    for split in (name for name in SPLITS if name in sizes):
        for position in order[start : start + sizes[split]]:
            result[position] = split
        start += sizes[split]
    return result


def _by_clusters(
    cluster_ids: Sequence[str], sizes: dict[Split, int], rest: Split | None, seed: int
) -> list[Split | None]:
    """Fill test, then validation, then train with clusters in seeded order, ``rest`` last.

    A cluster too large for what a split still needs is passed over.  Where the clusters are
    all too large for a split, it gets the smallest one rather than nothing.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, cluster in enumerate(cluster_ids):
        members[cluster].append(position)
    names = list(members)
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    waiting = [names[place] for place in order]
    result: list[Split | None] = [None] * len(cluster_ids)
    filled = [split for split in _FILL_ORDER if split in sizes]
    for split in sorted(filled, key=lambda split: split == rest):
        missing = len(cluster_ids) if split == rest else sizes[split]
        taken, passed = [], []
        for cluster in waiting:
            if len(members[cluster]) <= missing:
                taken.append(cluster)
                missing -= len(members[cluster])
            else:
                passed.append(cluster)
        if not taken and passed:
            taken = [min(passed, key=lambda cluster: len(members[cluster]))]
        for cluster in taken:
            for position in members[cluster]:
                result[position] = split
        chosen = set(taken)
        waiting = [cluster for cluster in waiting if cluster not in chosen]
    return result


def _taker_of_rest(sizes: dict[Split, int], section: SplitSection, n_rows: int) -> Split | None:
    """The split that gets every row the others leave; none if the sizes leave rows over."""
    without_size = [split for split in sizes if getattr(section, split) is None]
    if without_size:
        return without_size[0]
    return "train" if sum(sizes.values()) == n_rows else None


def _empty_split(
    split: Split, n_rows: int, section: SplitSection, cluster_ids: Sequence[str] = ()
) -> DataError:
    clusters = f" in {len(set(cluster_ids))} clusters of near-duplicates" if cluster_ids else ""
    return DataError(
        f"the {split} split would have no rows",
        received=f"{n_rows} rows{clusters}; {_in_words(section)}",
        accepted="at least one row in every split",
        next_step=f"raise data.split.{split}, lower the others, or give more data",
    )


def _in_words(section: SplitSection) -> str:
    sizes = (getattr(section, split) for split in SPLITS)
    return ", ".join(
        f"{split}={'the rest' if size is None else size}"
        for split, size in zip(SPLITS, sizes, strict=True)
    )
