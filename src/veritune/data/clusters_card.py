"""How rows repeat each other: copies as they were read, clusters as they came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from veritune.data.findings.masked import cut
from veritune.data.raw_rows import RawRow
from veritune.data.row_keys import text_keys
from veritune.rows import Example

_BINS = (1, 2, 3, 4, 5, 10, 20, 50, 100, 1000)
_N_LARGEST = 5
_N_ROWS_SHOWN = 3
_SHOWN_CHARACTERS = 400
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def copies_of(rows: Sequence[RawRow]) -> dict[str, Any]:
    """Different texts of the rows as read, those that equal an earlier row, and their copies."""
    keys = text_keys(rows)
    of_rows = np.zeros(len(rows), dtype=np.uint64)
    for column in keys.values():
        of_rows = (of_rows ^ column) * _FACTOR
    counts = np.unique(of_rows, return_counts=True)[1]
    sizes = Counter(counts.tolist())
    return {
        "unique": {name: len(np.unique(column)) for name, column in keys.items()},
        "n_exact_duplicates": len(rows) - len(counts),
        "copies": [{"n_copies": n, "n_texts": sizes[n]} for n in sorted(sizes)[:20]],
    }


def cluster_structure(
    examples: Sequence[Example], cluster_ids: Sequence[str], sizes: Counter[str]
) -> dict[str, Any]:
    """Clusters by size, and rows of the largest.

    Args:
        cluster_ids: of each example.
        sizes: rows of each cluster.
    """
    by_size = Counter(sizes.values())
    bins = []
    for low, high in zip(_BINS, (*_BINS[1:], None), strict=True):
        within = [size for size in by_size if size >= low and (high is None or size < high)]
        if within:
            bins.append(
                {
                    "size": _label(low, high),
                    "n_clusters": sum(by_size[size] for size in within),
                    "n_rows": sum(size * by_size[size] for size in within),
                }
            )
    largest = {name: size for name, size in sizes.most_common(_N_LARGEST) if size > 1}
    shown: dict[str, list[dict[str, str]]] = {name: [] for name in largest}
    for place, name in enumerate(cluster_ids if largest else ()):
        rows = shown.get(name)
        if rows is not None and len(rows) < _N_ROWS_SHOWN:
            example = examples[place]
            rows.append(
                {
                    "example_id": example.example_id,
                    "split": example.split,
                    "instruction": cut(
                        f"{example.instruction} {example.input}".strip(), _SHOWN_CHARACTERS
                    ),
                    "reference": cut(example.reference, _SHOWN_CHARACTERS),
                }
            )
    return {
        "sizes": bins,
        "largest": [
            {"cluster_id": name, "n_rows": size, "examples": shown[name]}
            for name, size in largest.items()
        ],
    }


def _label(low: int, high: int | None) -> str:
    if high is None:
        return f"{low:,} or more"
    return str(low) if high == low + 1 else f"{low}–{high - 1}"
