"""What verbs print for people, where it could be misread."""

from __future__ import annotations

from typing import Any

import pytest

from veritune import show


def _row(against: str, low: float, high: float, verdict: str) -> dict[str, Any]:
    middle = (low + high) / 2
    return {
        "metric": "chrf",
        "against": against,
        "value": 20.0,
        "against_value": 20.0 - middle,
        "delta": middle,
        "ci_low": low,
        "ci_high": high,
        "verdict": verdict,
    }


@pytest.mark.parametrize(
    ("verdict", "is_explained"), [("no difference detected", True), ("better", False)]
)
def test_a_verdict_that_does_not_follow_its_interval_is_explained(
    verdict: str, is_explained: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    show.conclusion(
        {
            "verdict": "better",
            "sentence": "Adapted is better.",
            "primary_metric": "chrf",
            "comparisons": [_row("retrieval", 1, 3, "better"), _row("baseline", 1, 3, verdict)],
        }
    )
    assert ("Holm's correction" in " ".join(capsys.readouterr().out.split())) == is_explained
