"""One answer of one system: its code, whether it parses, its scores."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from veritune.report.load import RunFiles
from veritune.report.wording import DASH, as_points, fixed, is_number, visible
from veritune.rows import Prediction, Score
from veritune.score import METRICS
from veritune.score.code import is_empty, parse_failure

ROUGES = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Outcome:
    """How an answer came out.

    Attributes:
        word: ``parses``, ``empty``, ``does not parse`` or ``missing``.
        reason: why it does not parse.
        is_cut: whether the token limit cut it off.
    """

    word: str
    reason: str
    is_cut: bool

    @property
    def symbol(self) -> str:
        """A sign for narrow columns."""
        return {"parses": "✓", "missing": DASH}.get(self.word, "✗")

    @property
    def kind(self) -> str:
        """Class that gives the colour."""
        return {"parses": "ok", "missing": "none"}.get(self.word, "bad")


def outcome_of(prediction: Prediction | None, scores: dict[str, Score]) -> Outcome:
    """What became of an answer, from its scores or else by looking at the code."""
    is_cut = prediction is not None and prediction.finish_reason == "length"
    score = scores.get("parse_rate")
    if score is not None and (score.value > 0 or score.outcome):
        reason = "parses" if score.value > 0 else score.outcome
    elif prediction is None:
        return Outcome("missing", "", False)
    elif is_empty(prediction.code):
        reason = "empty"
    else:
        reason = parse_failure(prediction.code) or "parses"
    if reason in ("parses", "empty"):
        return Outcome(reason, "", is_cut)
    return Outcome("does not parse", visible(reason), is_cut)


def values_of(scores: dict[str, Score]) -> dict[str, float]:
    """Every metric of one answer on 0–100, in the order of the table of metrics."""
    found = {name: as_points(name, score.value) for name, score in scores.items()}
    order = [*(name for name in METRICS if name in found), *sorted(found.keys() - METRICS.keys())]
    return {name: value for name in order if (value := found[name]) is not None}


@dataclass(frozen=True)
class RougeRow:
    """Recall, precision and F of one ROUGE, 0–1."""

    recall: float | None
    precision: float | None
    f: float | None

    def printed(self) -> tuple[str, str, str]:
        """The three numbers as text."""
        return fixed(self.recall, 3), fixed(self.precision, 3), fixed(self.f, 3)


def rouge_of(scores: dict[str, Score], name: str) -> RougeRow:
    """The three numbers of one ROUGE of one answer."""
    score = scores.get(name)
    if score is None:
        return RougeRow(None, None, None)
    if len(score.stats) >= 3 and all(is_number(item) for item in score.stats[:3]):
        precision, recall, f = score.stats[:3]
        return RougeRow(recall, precision, f)
    return RougeRow(None, None, score.value if is_number(score.value) else None)


def reference_outcome(reference: str) -> Outcome:
    """Whether a reference itself is valid Python."""
    failure = "empty" if is_empty(reference) else parse_failure(reference)
    if failure == "empty":
        return Outcome("empty", "", False)
    return Outcome("does not parse" if failure else "parses", visible(failure or ""), False)


def question_of(instruction: str, context: str) -> str:
    """Instruction and input as one text."""
    return f"{instruction}\n\n{context}" if context.strip() else instruction


def scores_of(files: RunFiles, example_id: str, system: str) -> dict[str, Score]:
    """The scores of one answer, empty if it was not scored."""
    return files.scores.get((example_id, system), {})


@dataclass(frozen=True)
class ShownAnswer:
    """One answer on the page."""

    label: str
    system: str
    code: Markup
    is_empty: bool
    outcome: Outcome
    metrics: list[tuple[str, str]]
    tokens: str
