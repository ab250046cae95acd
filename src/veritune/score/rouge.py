"""ROUGE-1, -2 and -L as rouge-score computes them (Lin 2004).

Its tokens are runs of letters and digits: operators are invisible, ``a+b`` equals ``a-b``.
Statistics are (precision, recall, F, 1), so that a sum divided by its last entry is a mean.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from veritune.score.code import is_empty
from veritune.score.metric import Measured, Metric, mean_percent

_EMPTY = Measured(0.0, "empty", (0.0, 0.0, 0.0, 1.0))


@functools.cache
def _scorer(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], use_stemmer=False)


def _score_ngrams(name: str, reference: str, code: str) -> Measured:
    if is_empty(code):
        return _EMPTY
    result = _scorer(name).score(reference, code)[name]
    stats = (float(result.precision), float(result.recall), float(result.fmeasure), 1.0)
    return Measured(stats[2], "", stats)


def _score_lcs(reference: str, code: str) -> Measured:
    """ROUGE-L; rouge-score's own table takes memory for every pair of tokens."""
    from rouge_score.scoring import fmeasure
    from rouge_score.tokenize import tokenize

    if is_empty(code):
        return _EMPTY
    wanted, given = tokenize(reference, None), tokenize(code, None)
    shared = lcs_length(wanted, given)
    precision, recall = shared / max(1, len(given)), shared / max(1, len(wanted))
    value = float(fmeasure(precision, recall))
    return Measured(value, "", (precision, recall, value, 1.0))


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for index, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << index
    everything = (1 << len(first)) - 1
    unmatched = everything
    for token in second:
        hits = unmatched & places.get(token, 0)
        unmatched = (unmatched + hits | unmatched - hits) & everything
    return len(first) - unmatched.bit_count()


def _rouge(name: str, label: str, score: Callable[[str, str], Measured]) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="points",
        scale=100.0,
        binary=False,
        signature=lambda: (
            f"rouge-score {name} F|mean of examples|stemmer:no|version:{version('rouge_score')}"
        ),
        score=score,
        corpus=mean_percent,
    )


ROUGE_1 = _rouge("rouge1", "ROUGE-1", functools.partial(_score_ngrams, "rouge1"))
ROUGE_2 = _rouge("rouge2", "ROUGE-2", functools.partial(_score_ngrams, "rouge2"))
ROUGE_L = _rouge("rougeL", "ROUGE-L", _score_lcs)
