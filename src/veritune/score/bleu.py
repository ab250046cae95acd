"""BLEU as sacrebleu computes it, over our lexer's tokens (Papineni et al. 2002).

The corpus value is plain corpus BLEU.  The value of one example uses the effective order,
else an exact answer of three tokens would score 0.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from veritune.score.code import is_empty
from veritune.score.lexer import LEXER_NAME, bleu_tokens
from veritune.score.metric import Array, Measured, Metric, ratio

_ORDERS = 4


@functools.cache
def _scorer(effective_order: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(tokenize="none", force=True, smooth_method="exp", effective_order=effective_order)
    scorer.corpus_score(["a"], [["a"]])  # a signature needs a number of references
    return scorer


@functools.lru_cache(maxsize=4096)
def _tokens_of_reference(reference: str) -> str:
    return bleu_tokens(reference)


def _score(reference: str, code: str) -> Measured:
    answer = "" if is_empty(code) else bleu_tokens(code)
    scorer = _scorer(True)
    (counts,) = scorer._extract_corpus_statistics([answer], [[_tokens_of_reference(reference)]])
    value = scorer._compute_score_from_stats(list(counts)).score
    return Measured(float(value), "" if answer else "empty", tuple(float(c) for c in counts))


def bleu_from_counts(stats: Array) -> Array:
    """Corpus BLEU with exponential smoothing, as ``sacrebleu.BLEU.compute_bleu``.

    Args:
        stats: shape [..., 10]: answer length, reference length, matched n-grams and n-grams
            of the answer for orders 1 to 4.

    Returns:
        BLEU on 0–100, shape [...].
    """
    length, reference_length = stats[..., 0], stats[..., 1]
    matched, total = stats[..., 2 : 2 + _ORDERS], stats[..., 2 + _ORDERS :]
    missed = matched == 0
    smoothing = np.exp2(np.cumsum(missed, axis=-1))
    precision = ratio(np.where(missed, 1.0 / smoothing, matched), total)
    defined: npt.NDArray[np.bool_] = np.asarray(
        (matched > 0).any(axis=-1) & (total > 0).all(axis=-1)
    )
    logarithm = np.log(np.where(defined[..., None], precision, 1.0)).mean(axis=-1)
    brevity = np.minimum(0.0, 1.0 - ratio(reference_length, length))
    return np.where(defined, 100.0 * np.exp(brevity + logarithm), 0.0)


BLEU = Metric(
    name="bleu",
    label="BLEU",
    unit="points",
    scale=1.0,
    binary=False,
    signature=lambda: f"sacrebleu BLEU|{_scorer(False).get_signature()}|lexer:{LEXER_NAME}",
    score=_score,
    corpus=bleu_from_counts,
)
