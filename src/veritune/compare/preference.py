"""What people preferred, blind: the sign test on paired answers.

The unit is the question.  Several votes on one question become one, that of their majority,
since they are not independent; ties say nothing about direction and are left out of the test
(Dixon and Mood, 1946), but counted and shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from veritune.rows import Verdict
from veritune.votes import Vote

_LEVEL = 0.05
_FEWEST_DECIDED = 6
"""With fewer, not even unanimity is significant: 2 × 0.5⁵ is above 0.05."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Questions on which people preferred one answer.

    Attributes:
        share: of the adapted answer among the decided questions, None if there are none.
        ci_low, ci_high: exact 95 % interval of the share (Clopper and Pearson, 1934).
        p_value: two-sided sign test.
    """

    n_votes: int
    n_questions: int
    n_adapted: int
    n_base: int
    n_ties: int
    share: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    verdict: Verdict


def preference(votes: Iterable[Vote], *, without: Sequence[str] = ()) -> Preference:
    """Sum up votes.

    Args:
        without: questions that do not count, such as those of the training data.
    """
    from scipy.stats import binomtest

    left_out = {_plain(text) for text in without}
    balance: dict[str, int] = defaultdict(int)
    n_votes = 0
    for vote in votes:
        question = _plain(vote.question)
        if question in left_out:
            continue
        n_votes += 1
        balance[question] += {"adapted": 1, "base": -1, "tie": 0}[vote.choice]
    n_adapted = sum(value > 0 for value in balance.values())
    n_base = sum(value < 0 for value in balance.values())
    decided = n_adapted + n_base
    share = low = high = p_value = None
    verdict: Verdict = "not measured"
    if decided:
        test = binomtest(n_adapted, decided)
        interval = test.proportion_ci(0.95, method="exact")
        share, p_value = n_adapted / decided, float(test.pvalue)
        low, high = float(interval.low), float(interval.high)
    if p_value is not None and decided >= _FEWEST_DECIDED:
        verdict = "no difference detected"
        if p_value < _LEVEL:
            verdict = "better" if n_adapted > n_base else "worse"
    return Preference(
        n_votes=n_votes,
        n_questions=len(balance),
        n_adapted=n_adapted,
        n_base=n_base,
        n_ties=len(balance) - decided,
        share=share,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        verdict=verdict,
    )


def _plain(question: str) -> str:
    return " ".join(question.split()).casefold()
