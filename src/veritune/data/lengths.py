"""Lengths of questions and answers: the limits, and their distribution for the card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from veritune.config import DataSection
from veritune.data.raw_rows import RawRow
from veritune.data.row_store import RowStore
from veritune.data.steps import StepCount
from veritune.errors import DataError

CountTokens = Callable[[Sequence[RawRow]], list[tuple[int, int]]]
"""(prompt tokens, answer tokens) of each row."""

_N_BINS = 20


def drop_too_long(
    rows: Sequence[RawRow], count_tokens: CountTokens | None, section: DataSection
) -> tuple[Sequence[RawRow], list[tuple[int, int]] | None, StepCount]:
    """Drop pairs over the recipe's token limits; nothing is ever cut.

    Returns:
        The rows left, their token counts (None without a tokenizer), and what was done.

    Raises:
        DataError: there are limits, but no tokenizer to count with.
    """
    limits = {
        name: limit
        for name in ("max_source_tokens", "max_target_tokens", "max_pair_tokens")
        if (limit := getattr(section, name)) is not None
    }
    if limits and count_tokens is None:
        raise DataError(
            "token limits are set, but no tokenizer is at hand to count tokens",
            received=_in_words(limits),
            accepted="limits together with a model whose tokenizer can be loaded",
            next_step="make the model available, or set these limits to null",
        )
    description = f"drop pairs over {_in_words(limits)}" if limits else "drop over-long pairs"
    counts = count_tokens(rows) if count_tokens is not None else None
    kept = rows
    if counts is not None:
        fits = [_fits(pair, section) for pair in counts]
        kept = _of_those(rows, fits)
        counts = [pair for pair, fit in zip(counts, fits, strict=True) if fit]
    step = StepCount(
        "drop_too_long", description, bool(limits), 0, len(rows) - len(kept), len(kept)
    )
    return kept, counts, step


@dataclass(frozen=True)
class FurtherLimits:
    """The token limits of one more model, by its own tokenizer.

    Attributes:
        name: of the model.
        section: with the limits.
    """

    name: str
    count_tokens: CountTokens
    section: DataSection


def drop_too_long_for(
    further: FurtherLimits,
    rows: Sequence[RawRow],
    token_counts: list[tuple[int, int]] | None,
) -> tuple[Sequence[RawRow], list[tuple[int, int]] | None, StepCount]:
    """Drop pairs that are too long for one more model; what is left all models can learn.

    Args:
        token_counts: of ``rows`` by the first model's tokenizer; those of the rows left return.
    """
    fits = [_fits(pair, further.section) for pair in further.count_tokens(rows)]
    kept = _of_those(rows, fits)
    if token_counts is not None:
        token_counts = [pair for pair, fit in zip(token_counts, fits, strict=True) if fit]
    description = f"drop pairs over the limits as {further.name} counts them"
    dropped = len(rows) - len(kept)
    step = StepCount(f"too_long_for {further.name}", description, True, 0, dropped, len(kept))
    return kept, token_counts, step


def length_statistics(
    pairs: Sequence[tuple[int, int]] | np.ndarray[Any, Any],
) -> dict[str, Any] | None:
    """Quantiles and a histogram of (source, target) lengths; None if there are none.

    The histogram's bins are equally wide up to the 99th percentile; the last one holds
    everything longer.
    """
    if not len(pairs):
        return None
    lengths = np.asarray(pairs, dtype=np.int64)
    edges = _edges(lengths)
    names = ("source", "target")
    return {
        **{name: _summary(lengths[:, column]) for column, name in enumerate(names)},
        "histogram": {
            "edges": edges.tolist(),
            **{
                name: np.histogram(lengths[:, column], bins=edges)[0].tolist()
                for column, name in enumerate(names)
            },
        },
    }


def distribution(values: Sequence[int]) -> dict[str, Any] | None:
    """Quantiles and a histogram of whole numbers, binned likewise; None if there are none."""
    if not len(values):
        return None
    numbers = np.asarray(values, dtype=np.int64)
    edges = _edges(numbers)
    counts = np.histogram(numbers, bins=edges)[0]
    histogram = {"edges": edges.tolist(), "counts": counts.tolist()}
    return {**_summary(numbers), "histogram": histogram}


def _summary(lengths: np.ndarray[Any, Any]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(lengths, (50, 90, 99))
    return {
        "p50": round(float(p50), 1),
        "p90": round(float(p90), 1),
        "p99": round(float(p99), 1),
        "max": int(lengths.max()),
        "mean": round(float(lengths.mean()), 1),
    }


def _edges(lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole numbers, rising, from 0 to one above the longest."""
    regular_end = max(1, int(np.ceil(np.percentile(lengths, 99))))
    width = max(1, -(-regular_end // _N_BINS))
    edges = np.arange(0, regular_end + width, width)
    last = int(lengths.max()) + 1
    return np.append(edges[edges < last], last)


def _of_those(rows: Sequence[RawRow], fits: Sequence[bool]) -> Sequence[RawRow]:
    if isinstance(rows, RowStore):
        return rows.take(np.flatnonzero(fits))
    return [row for row, fit in zip(rows, fits, strict=True) if fit]


def _fits(pair: tuple[int, int], section: DataSection) -> bool:
    source, target = pair
    limits = (
        (source, section.max_source_tokens),
        (target, section.max_target_tokens),
        (source + target, section.max_pair_tokens),
    )
    return all(limit is None or length <= limit for length, limit in limits)


def _in_words(limits: dict[str, int]) -> str:
    return ", ".join(f"{name}={limit}" for name, limit in limits.items())
