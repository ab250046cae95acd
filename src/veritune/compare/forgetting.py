"""What the adapted model lost on text that has nothing to do with its training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from veritune.compare.statistics import MIN_CLUSTERS, estimate
from veritune.rows import AwayLoss
from veritune.score.metric import Array


def forgetting_table(
    rows: Sequence[AwayLoss], *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Loss per token of base and adapted model for each kind of text.

    ``delta`` is adapted - baseline in nats a token, with an interval over documents; it is
    above zero where the model forgot.
    """
    table = []
    for kind in sorted({row.kind for row in rows}):
        documents: dict[str, Array] = {}
        chunks = [row for row in rows if row.kind == kind]
        for row in chunks:
            sums = np.array([row.adapted, row.baseline, row.n_tokens, row.n_bytes], np.float64)
            documents[row.document] = documents.get(row.document, 0.0) + sums
        group = np.array([documents[name] for name in sorted(documents)])
        result = estimate(_difference, [group], resamples=resamples, seed=seed)
        adapted, baseline, tokens, size = group.sum(axis=0)
        table.append(
            {
                "kind": kind,
                "n_chunks": len(chunks),
                "n_documents": len(group),
                "n_tokens": int(tokens),
                "baseline_loss": float(baseline / tokens),
                "adapted_loss": float(adapted / tokens),
                "baseline_bits_per_byte": float(baseline / size / math.log(2)),
                "adapted_bits_per_byte": float(adapted / size / math.log(2)),
                "delta": result.value,
                "ci_low": result.low,
                "ci_high": result.high,
                "verdict": _verdict(result.low, result.high),
            }
        )
    return table


def _difference(sums: Sequence[Array]) -> Array:
    (one,) = sums
    return np.asarray((one[..., 0] - one[..., 1]) / np.maximum(one[..., 2], 1.0))


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"not measured (under {MIN_CLUSTERS} documents)"
    if low > 0:
        return "forgets"
    return "improves" if high < 0 else "no loss detected"
