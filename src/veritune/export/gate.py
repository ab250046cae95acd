"""The gate every export passes: it answers as the adapter does, and not as the base does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from veritune.compare.systems import compare_systems
from veritune.errors import GateFailed
from veritune.export.readings import Reading
from veritune.rows import Comparison, Example, Score
from veritune.score import METRICS, extract_code

CHRF = "chrf"
_CLOSER_THAN_BASE = 2.0
"""How many times nearer to the adapter than the base is an export has to be."""


@dataclass(frozen=True)
class Tolerance:
    """How far an export may be from the adapter.

    Attributes:
        logprob: mean absolute difference of the log-probability of a token, in nats.
        likeliest: smallest share of places where both find the same token likeliest.
        answers: smallest share of questions with the very same greedy answer, however short.
    """

    logprob: float
    likeliest: float
    answers: float

    def equal_answers(self, lengths: Sequence[int]) -> int:
        """How many questions must have the very same greedy answer.

        One token that falls otherwise changes all that follow: where a share p of tokens
        agrees, an answer of n tokens stays whole with a chance of p to the n.  Long answers
        are held to that, and none to more than ``answers``.

        Args:
            lengths: of the adapter's answers, in tokens.
        """
        whole = sum(self.likeliest**length for length in lengths)
        return round(min(self.answers * len(lengths), whole))


TOLERANCES: dict[str, Tolerance] = {
    "float32": Tolerance(0.001, 0.995, 0.9),
    "half": Tolerance(0.02, 0.98, 0.7),
    "bfloat16": Tolerance(0.05, 0.96, 0.5),
    # Blocks of 32 weights with a scale each.
    "q8_0": Tolerance(0.10, 0.93, 0.3),
    # A scale for a whole row, and activations of eight bits, too: about six times as far.
    "int8": Tolerance(0.20, 0.88, 0.3),
}


@dataclass(frozen=True)
class Distance:
    """How far a model is from the adapter, over all tokens of the adapter's answers.

    Attributes:
        logprob: mean absolute difference, in nats; ``logprob_max`` the largest.
        likeliest: share of places with the same likeliest token; None where not known.
        same_answers: questions answered to the letter as the adapter answers them.
    """

    logprob: float
    logprob_max: float
    likeliest: float | None
    same_answers: int


@dataclass(frozen=True)
class Check:
    """One condition of the gate.

    Attributes:
        limit: in words, with the number.
    """

    name: str
    value: float
    limit: str
    passed: bool


@dataclass(frozen=True)
class Gate:
    """The gate's figures.

    Attributes:
        by: what ran the export.
        equal_answers: questions that must be answered to the letter as the adapter does.
        chrf: export against adapter on the same questions.
    """

    by: str
    n_prompts: int
    n_clusters: int
    n_tokens: int
    tolerance: Tolerance
    equal_answers: int
    export: Distance
    base: Distance
    checks: tuple[Check, ...]
    chrf: Comparison

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """For ``export.json``."""
        return {"passed": self.passed, **asdict(self)}


def distance(reading: Reading, adapter: Reading) -> Distance:
    """How far a model is from the adapter."""
    differences = np.abs(np.concatenate(reading.logprobs) - np.concatenate(adapter.logprobs))
    same_token = None
    if reading.likeliest is not None and adapter.likeliest is not None:
        pairs = zip(reading.likeliest, adapter.likeliest, strict=True)
        same_token = float(np.concatenate([one == other for one, other in pairs]).mean())
    pairs_of_answers = zip(reading.answers, adapter.answers, strict=True)
    return Distance(
        logprob=float(differences.mean()),
        logprob_max=float(differences.max()),
        likeliest=same_token,
        same_answers=sum(one == other for one, other in pairs_of_answers),
    )


def judge(
    export: Reading,
    adapter: Reading,
    base: Reading,
    examples: Sequence[Example],
    *,
    tolerance: Tolerance,
    by: str,
    resamples: int,
    seed: int,
) -> Gate:
    """Measure an export; it is the caller who acts on ``passed``.

    Args:
        examples: the questions asked, in the order of the readings.
        by: what ran the export, such as ``transformers``.
    """
    ours, theirs = distance(export, adapter), distance(base, adapter)
    n = len(examples)
    wanted = tolerance.equal_answers([len(row) for row in adapter.logprobs])
    clusters = {row.example_id: row.cluster_id for row in examples}
    return Gate(
        by=by,
        n_prompts=n,
        n_clusters=len(set(clusters.values())),
        n_tokens=sum(map(len, adapter.logprobs)),
        tolerance=tolerance,
        equal_answers=wanted,
        export=ours,
        base=theirs,
        checks=tuple(_checks(ours, theirs, n, tolerance, wanted)),
        chrf=compare_systems(
            CHRF,
            "export",
            "adapted",
            _chrf("export", examples, export.answers),
            _chrf("adapted", examples, adapter.answers),
            clusters=clusters,
            resamples=resamples,
            seed=seed,
        ),
    )


def refuse_failed(gate: Gate) -> None:
    """Stop an export whose gate failed.

    Raises:
        GateFailed: with every figure that broke its limit.
    """
    if gate.passed:
        return
    broken = [
        f"{row.name} {row.value:.4g}, wanted {row.limit}" for row in gate.checks if not row.passed
    ]
    raise GateFailed(
        "the export does not pass its gate, so nothing was written",
        received=f"{'; '.join(broken)} (on {gate.n_prompts} questions, run by {gate.by})",
        accepted="an export that answers as the adapter does, and not as the base does",
        next_step="train longer if the adapter hardly differs from the base; else choose a higher"
        " precision (--quantization) or another format",
    )


def _checks(
    ours: Distance, theirs: Distance, n: int, tolerance: Tolerance, equal_answers: int
) -> list[Check]:
    checks = [
        Check(
            "difference of log-probabilities from the adapter (nats)",
            ours.logprob,
            f"at most {tolerance.logprob:g}",
            ours.logprob <= tolerance.logprob,
        ),
        Check(
            "share of greedy answers equal to the adapter's",
            ours.same_answers / n,
            f"at least {equal_answers / n:.3g}",
            ours.same_answers >= equal_answers,
        ),
        Check(
            "the base's difference of log-probabilities, in export's",
            min(theirs.logprob / max(ours.logprob, 1e-9), 1e9),
            f"at least {_CLOSER_THAN_BASE:g}",
            theirs.logprob > max(_CLOSER_THAN_BASE * ours.logprob, 1e-6),
        ),
        Check(
            "share of greedy answers in which base and adapter differ",
            1 - theirs.same_answers / n,
            "above 0",
            theirs.same_answers < n,
        ),
    ]
    if ours.likeliest is not None:
        wanted = tolerance.likeliest
        checks.insert(
            1,
            Check(
                "share of tokens that both find likeliest",
                ours.likeliest,
                f"at least {wanted:g}",
                ours.likeliest >= wanted,
            ),
        )
    return checks


def _chrf(system: str, examples: Sequence[Example], answers: Sequence[str]) -> list[Score]:
    score = METRICS[CHRF].score
    assert score is not None
    return [
        Score(row.example_id, system, CHRF, *score(row.reference, extract_code(answer)))
        for row, answer in zip(examples, answers, strict=True)
    ]
