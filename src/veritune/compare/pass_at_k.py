"""pass@k from several sampled answers a question.

``1 - C(n - c, k) / C(n, k)`` for c passes among n answers is unbiased (Chen et al. 2021,
"Evaluating Large Language Models Trained on Code", eq. 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from veritune.compare.pairs import pair
from veritune.compare.statistics import estimate
from veritune.rows import Score
from veritune.score.metric import Array, mean_percent

_KS = (1, 2, 5, 10, 20, 50, 100, 200)


def pass_at_k(n: int, passed: int, k: int) -> float:
    """Probability that at least one of k answers passes, from ``passed`` of n that did."""
    if not 1 <= k <= n or not 0 <= passed <= n:
        raise ValueError(f"1 <= k <= n and 0 <= passed <= n do not hold: {k}, {n}, {passed}")
    if n - passed < k:
        return 1.0
    factors = 1.0 - k / np.arange(n - passed + 1, n + 1, dtype=np.float64)
    return float(1.0 - np.prod(factors))


def pass_at_k_table(
    passes: Mapping[str, Mapping[str, Sequence[bool]]],
    clusters: Mapping[str, str],
    *,
    system: str,
    against: str,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """pass@k of two systems on the questions both answered, in percent, with the difference.

    Args:
        passes: by system and example id, whether each sampled answer passed.
        clusters: cluster of every example.
    """
    shared = sorted(passes[system].keys() & passes[against].keys())
    if not shared:
        return []
    n = min(len(passes[name][row]) for name in (system, against) for row in shared)
    rows = []
    for k in sorted({*(k for k in _KS if k <= n), n}):
        sides = [_scores(passes[name], shared, name, n, k) for name in (system, against)]
        pairs = pair("pass_at_k", sides[0], sides[1], clusters)
        both = np.concatenate([pairs.system, pairs.against], axis=1)
        result = estimate(_difference, [both], resamples=resamples, seed=seed)
        rows.append(
            {
                "k": k,
                "n_samples": n,
                "n_examples": pairs.n_examples,
                "system": system,
                "against": against,
                "value": float(mean_percent(pairs.system.sum(axis=0))),
                "against_value": float(mean_percent(pairs.against.sum(axis=0))),
                "delta": result.value,
                "ci_low": result.low,
                "ci_high": result.high,
            }
        )
    return rows


def _difference(sums: Sequence[Array]) -> Array:
    return mean_percent(sums[0][..., :2]) - mean_percent(sums[0][..., 2:])


def _scores(
    passes: Mapping[str, Sequence[bool]], shared: Sequence[str], system: str, n: int, k: int
) -> list[Score]:
    values = [(name, pass_at_k(n, sum(passes[name][:n]), k)) for name in shared]
    return [Score(name, system, "pass_at_k", value, "", (value, 1.0)) for name, value in values]
