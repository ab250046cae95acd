"""The verdict as one English sentence with the numbers in it."""

from __future__ import annotations

from veritune.compare.statistics import MIN_CLUSTERS
from veritune.rows import Comparison
from veritune.score import metric_named

_NAMES = {
    "adapted": "adapted",
    "baseline": "the base model zero-shot",
    "few_shot": "the base model with examples in the prompt",
    "full_finetune": "full fine-tuning",
    "merged": "the merged model",
}


def name_of(system: str) -> str:
    """What a system is called inside a sentence."""
    kind, colon, name = system.partition(":")
    if colon and kind == "adapter":
        return f"the adapter {name}"
    return _NAMES.get(system, system.replace("_", " "))


def verdict_sentence(row: Comparison, *, is_best: bool) -> str:
    """The verdict of a comparison of ``adapted`` with another system.

    Args:
        row: the comparison.
        is_best: whether the other is the best of several baselines.
    """
    metric = metric_named(row.metric)
    other = name_of(row.against) + (", the best baseline" if is_best else "")
    claim = {
        "better": f"Adapted is better than {other}",
        "worse": f"Adapted is worse than {other}",
        "no difference detected": f"No difference detected between adapted and {other}",
        "not measured": f"Not measured whether adapted is better than {other}",
    }[row.verdict]
    sign = " %" if metric.unit == "%" else ""
    values = f"{metric.label} {row.value:.1f}{sign} against {row.against_value:.1f}{sign}"
    questions = f"{row.n_examples} unseen question{'s' if row.n_examples != 1 else ''}"
    return f"{claim}: {values}, {_difference(row, ' points')} on {questions} ({_basis(row)})."


def zero_shot_sentence(row: Comparison) -> str:
    """A second, shorter sentence on a comparison with the base model."""
    return f"Against {name_of(row.against)}: {_difference(row, '')}."


def _basis(row: Comparison) -> str:
    clusters = f"{row.n_clusters} cluster{'s' if row.n_clusters != 1 else ''}"
    if row.n_seeds > 1:
        clusters = f"{row.n_seeds} training seeds, {clusters}"
    if row.ci_low is None:
        return f"{clusters}; an interval needs at least {MIN_CLUSTERS}"
    if row.mde is None:
        return f"95 % interval, {clusters}; the difference is the same in every one of them"
    return f"95 % interval, {clusters}; smallest detectable effect {row.mde:.1f}"


def _difference(row: Comparison, unit: str) -> str:
    difference = f"{signed(row.delta)}{unit}"
    if row.ci_low is None or row.ci_high is None:
        return difference
    return f"{difference} [{signed(row.ci_low)}, {signed(row.ci_high)}]"


def signed(value: float) -> str:
    """A difference to one decimal with its sign; a small one keeps one digit."""
    if abs(value) < 5e-10:
        return "0.0"
    text = f"{value:+.1f}" if abs(value) >= 0.05 else f"{value:+.1g}"
    return text.replace("-", "−")
