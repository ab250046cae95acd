"""The training: losses as a figure and as the table trainers print, and the summary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from veritune.report.figures import loss_plot
from veritune.report.load import RunFiles
from veritune.report.wording import (
    count,
    duration,
    fixed,
    is_number,
    mapping,
    memory,
    significant,
)


@dataclass(frozen=True)
class LossRow:
    """One line of the table ``Step | Training Loss | Validation Loss``."""

    step: str
    epoch: str
    training: str
    validation: str
    is_best: bool


@dataclass(frozen=True)
class TrainingView:
    """Section 3.

    Attributes:
        figure: the curves, or None where nothing was logged.
        sentence: what the curves say.
        rows: one for each evaluation.
        summary: (name, value) as trainers print it.
    """

    figure: Markup | None
    sentence: str
    rows: list[LossRow]
    summary: list[tuple[str, str]]


_SUMMARY = (
    ("global_step", count),
    ("epoch", significant),
    ("training_loss", lambda value: fixed(value, 4)),
    ("best_validation_loss", lambda value: fixed(value, 4)),
    ("best_step", count),
    ("kept_step", count),
    ("train_runtime", duration),
    ("train_samples_per_second", significant),
    ("train_steps_per_second", significant),
    ("train_tokens_per_second", significant),
    ("supervised_tokens", count),
    ("real_tokens", count),
    ("padded_tokens", count),
    ("total_flos", significant),
    ("model_flops", significant),
    ("peak_memory_bytes", memory),
)


def make_training(files: RunFiles) -> TrainingView | None:
    """Section 3; None if nothing was trained."""
    summary = _summary_of(files)
    if not files.log and not summary:
        return None
    steps = list(_points(files.log, "step", "loss"))
    evaluations = [
        event
        for event in files.log
        if event.get("event") == "evaluation" and is_number(event.get("step"))
    ]
    validation = list(_points(evaluations, "evaluation", "validation_loss"))
    best = min(validation, key=lambda point: (point[1], point[0]), default=None)
    sentence = _sentence(validation, best, summary)
    figure = None
    if steps or validation:
        figure = loss_plot(
            steps,
            list(_points(evaluations, "evaluation", "training_loss")),
            validation,
            best,
            f"Training and validation loss over optimizer steps. {sentence}",
        )
    return TrainingView(
        figure=figure,
        sentence=sentence,
        rows=[
            LossRow(
                step=count(event["step"]),
                epoch=significant(event.get("epoch")),
                training=fixed(event.get("training_loss"), 6),
                validation=fixed(event.get("validation_loss"), 6),
                is_best=best is not None and event["step"] == best[0],
            )
            for event in evaluations
        ],
        summary=_printed(summary),
    )


def _summary_of(files: RunFiles) -> dict[str, Any]:
    recorded = mapping(files.stage("train").get("summary"))
    if recorded:
        return recorded
    ends = [event for event in files.log if event.get("event") == "end"]
    return {key: value for key, value in ends[-1].items() if key != "event"} if ends else {}


def _printed(summary: dict[str, Any]) -> list[tuple[str, str]]:
    shared = " (its share of the time in company)" if summary.get("trained_in_a_sweep") else ""
    rows = [
        (name + (shared if name == "train_runtime" else ""), show(summary[name]))
        for name, show in _SUMMARY
        if is_number(summary.get(name))
    ]
    if isinstance(summary.get("stopped_early"), bool):
        rows.append(("stopped_early", "yes" if summary["stopped_early"] else "no"))
    return rows


def _points(
    events: Iterable[dict[str, Any]], event: str, name: str
) -> Iterable[tuple[float, float]]:
    for row in events:
        step, value = row.get("step"), row.get(name)
        if row.get("event") == event and is_number(step) and is_number(value):
            yield float(step), float(value)


def _sentence(
    validation: list[tuple[float, float]],
    best: tuple[float, float] | None,
    summary: dict[str, Any],
) -> str:
    if best is None:
        return "No validation loss was recorded."
    last_step, last_loss = validation[-1]
    text = f"Validation loss is lowest at step {count(best[0])} ({fixed(best[1], 3)})"
    if last_step != best[0]:
        rise = "and has risen to" if last_loss > best[1] else "and is"
        text += f" {rise} {fixed(last_loss, 3)} by step {count(last_step)}"
    kept = summary.get("kept_step")
    if is_number(kept):
        text += f"; the adapter of step {count(kept)} is kept"
    return f"{text}."
