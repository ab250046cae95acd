"""chrF as sacrebleu computes it, white space included (Popović 2015)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from veritune.score.code import is_empty
from veritune.score.metric import Array, Measured, Metric, ratio

_BETA_SQUARED = 4.0


@functools.cache
def _scorer() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    scorer = CHRF(whitespace=True)
    scorer.corpus_score(["a"], [["a"]])  # a signature needs a number of references
    return scorer


def _score(reference: str, code: str) -> Measured:
    answer = "" if is_empty(code) else code
    (counts,) = _scorer()._extract_corpus_statistics([answer], [[reference]])
    stats = tuple(float(count) for count in counts)
    return Measured(float(chrf_from_counts(np.array(stats))), "" if answer else "empty", stats)


def chrf_from_counts(stats: Array) -> Array:
    """chrF from n-gram counts, as ``sacrebleu.metrics.CHRF._compute_f_score``.

    Args:
        stats: shape [..., 18]: (in the answer, in the reference, in both) for orders 1 to 6.

    Returns:
        chrF on 0–100, shape [...].
    """
    answer, reference, both = stats[..., 0::3], stats[..., 1::3], stats[..., 2::3]
    counted = (answer > 0) & (reference > 0)
    orders = counted.sum(axis=-1, dtype=np.float64)
    precision = ratio(np.where(counted, ratio(both, answer), 0.0).sum(axis=-1), orders)
    recall = ratio(np.where(counted, ratio(both, reference), 0.0).sum(axis=-1), orders)
    return 100.0 * ratio(
        (1 + _BETA_SQUARED) * precision * recall, _BETA_SQUARED * precision + recall
    )


CHRF = Metric(
    name="chrf",
    label="chrF",
    unit="points",
    scale=1.0,
    binary=False,
    signature=lambda: f"sacrebleu chrF|{_scorer().get_signature()}",
    score=_score,
    corpus=chrf_from_counts,
)
