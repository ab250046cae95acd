"""The gate that a script asks for with ``--require``: a rule on the headline's interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from veritune.compare.sentence import name_of, signed
from veritune.rows import Comparison, Requirement
from veritune.score import metric_named


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a requirement holds, and why, in one line."""

    required: Requirement
    passed: bool
    reason: str

    def to_json(self) -> dict[str, object]:
        """The ``gate`` entry of ``--json``."""
        return asdict(self)


def judge(required: Requirement, headline: Comparison, *, margin: float) -> Gate:
    """Judge the comparison of ``adapted`` with the best baseline on the primary metric.

    ``better`` wants the verdict ``better`` and the interval's lower end above 0;
    ``not-worse`` wants the lower end above ``-margin`` (non-inferiority).  What was not
    measured fails every gate.

    Args:
        required: the gate.
        headline: adapted minus best baseline.
        margin: points on 0–100 that count as no loss.
    """
    what = f"{metric_named(headline.metric).label}, adapted minus {name_of(headline.against)}"
    if headline.ci_low is None or headline.ci_high is None or headline.verdict == "not measured":
        return Gate(
            required,
            False,
            f"not measured: {what} has no interval on {headline.n_clusters} clusters",
        )
    limit = 0.0 if required == "better" else -margin
    passed = headline.ci_low > limit
    if required == "better":
        passed = passed and headline.verdict == "better"
    found = f"{signed(headline.delta)} [{signed(headline.ci_low)}, {signed(headline.ci_high)}]"
    place = "is above" if headline.ci_low > limit else "is not above"
    return Gate(
        required, passed, f"{what}: {found}, and the lower end {place} {_limit(required, margin)}"
    )


def headline_of(conclusion: Mapping[str, Any]) -> Comparison:
    """The headline's comparison in the content of ``comparison.json``."""
    return next(
        Comparison(**row)
        for row in conclusion["comparisons"]
        if row["metric"] == conclusion["primary_metric"]
        and row["against"] == conclusion["best_baseline"]
    )


def _limit(required: Requirement, margin: float) -> str:
    return "0" if required == "better" else f"{signed(-margin)} (evaluate.margin {margin:g})"
