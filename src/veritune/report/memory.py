"""What the adapted model copied, what training left in it, and what it forgot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from veritune.report.answers import question_of
from veritune.report.figures import drawing
from veritune.report.highlight import Highlighter, clip
from veritune.report.load import RunFiles
from veritune.report.section import Section
from veritune.report.wording import (
    count,
    fixed,
    interval,
    is_number,
    mapping,
    one_line,
    percent,
    plural,
    rows_of,
    signed,
    system_label,
)

_KINDS = {"prose": "English prose", "code": "Python code", "text": "Your texts"}
_SERIES = (
    ("adapted", "train", "of-train", "adapted, training questions"),
    ("adapted", "test", "of-test", "adapted, unseen questions"),
    ("reference", "test", "of-truth", "true answers to unseen questions"),
)
_HEIGHT = 150


@dataclass(frozen=True)
class CopiedAnswer:
    """An answer beside the training row it is nearest to."""

    question: str
    code: Markup
    source: str
    source_code: Markup
    facts: str


def make_memory(files: RunFiles) -> list[Section]:
    """Sections on copying, on traces in the losses, and on forgetting."""
    made = (_copying(files), _traces(files), _forgetting(files))
    return [section for section in made if section is not None]


def make_copied(files: RunFiles, highlight: Highlighter) -> list[CopiedAnswer]:
    """The answers to unseen questions that are nearest to a training answer."""
    rows = rows_of(mapping(files.details("memorisation")).get("most_copied"))
    train = {row.example_id: row for row in files.examples.get("train", [])}
    test = {row.example_id: row for row in files.examples.get("test", [])}
    answers = files.predictions.get("adapted", {})
    shown = []
    for row in rows:
        name, nearest = str(row.get("example_id")), train.get(str(row.get("nearest")))
        if name not in answers or name not in test or nearest is None:
            continue
        asked = test[name]
        share = row.get("run_share")
        shown.append(
            CopiedAnswer(
                question=clip(question_of(asked.instruction, asked.input)),
                code=highlight(answers[name].code),
                source=one_line(nearest.source or nearest.example_id, 80),
                source_code=highlight(nearest.reference),
                facts=f"{fixed(row.get('similarity'), 2)} alike; longest shared run"
                f" {plural(row.get('run'), 'token')}"
                + (f" ({percent(100 * share, 0)} of the answer)" if is_number(share) else ""),
            )
        )
    return shown


def _copying(files: RunFiles) -> Section | None:
    found = mapping(files.details("memorisation"))
    rows = rows_of(found.get("copying"))
    if not rows:
        return None
    by_name = {(row.get("system"), row.get("split")): row for row in rows}
    unseen, truth = by_name.get(("adapted", "test")), by_name.get(("reference", "test"))
    sentence = ""
    if unseen:
        sentence = (
            f"{percent(unseen.get('share_near'))} of the adapted answers to unseen questions are"
            " nearly a training answer (at least 0.9 alike)"
        )
        if truth:
            sentence += f"; of the true answers {percent(truth.get('share_near'))} are"
        sentence += "."
    return Section(
        anchor="copying",
        title="How near are the answers to training answers?",
        short="Copying",
        sentence=sentence,
        head=("Whose", "n", "Mean likeness", "≥ 0.9", "Longest run in tokens, median", "Longest"),
        rows=[
            (
                _whose(row),
                count(row.get("n")),
                fixed(row.get("mean_similarity"), 2),
                percent(row.get("share_near")),
                f"{fixed(row.get('median_run'), 0)}",
                f"{count(row.get('max_run'))}",
            )
            for row in rows
        ],
        note="Likeness to the nearest training answer: 1 − insertions and deletions as a share of"
        " both lengths. Runs are token sequences found whole in some training answer; compared"
        f" with {plural(found.get('n_compared'), 'training answer')}.",
        figure=_distribution(by_name),
        legend=[
            (kind, text) for system, split, kind, text in _SERIES if (system, split) in by_name
        ],
    )


def _whose(row: dict[str, Any]) -> str:
    where = "training questions" if row.get("split") == "train" else "unseen questions"
    if row.get("system") == "reference":
        return f"True answers, {where}"
    return f"{system_label(str(row.get('system')))}, {where}"


def _distribution(by_name: dict[tuple[Any, Any], dict[str, Any]]) -> Markup | None:
    """Shares of answers over likeness, one stepped line a group."""
    parts: list[str] = []
    for system, split, kind, _ in _SERIES:
        counts = mapping(by_name.get((system, split))).get("histogram")
        if not isinstance(counts, list) or not all(is_number(n) for n in counts) or not any(counts):
            continue
        parts += _steps(counts, kind)
    if not parts:
        return None
    base = f'<line class="base" x1="0" x2="100%" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
    labels = [
        f'<text x="{100 * value:g}%" y="{_HEIGHT + 16}" text-anchor="{anchor}">{value:g}</text>'
        for value, anchor in (
            (0, "start"),
            (0.25, "middle"),
            (0.5, "middle"),
            (0.75, "middle"),
            (1, "end"),
        )
    ]
    words = "Distribution of likeness to the nearest training answer"
    return Markup('<div class="steps" role="img" aria-label="{}">{}</div>').format(
        words, drawing("area", _HEIGHT + 22, [base, *parts, *labels])
    )


def _steps(counts: Sequence[float], kind: str) -> list[str]:
    total, width = sum(counts), 100 / len(counts)
    heights = [round(_HEIGHT - (_HEIGHT - 12) * n / total, 2) for n in counts]
    lines = []
    for place, y in enumerate(heights):
        left, right = place * width, (place + 1) * width
        lines.append(
            f'<line class="step {kind}" x1="{left:.3f}%" x2="{right:.3f}%" y1="{y}" y2="{y}"/>'
        )
        if place:
            lines.append(
                f'<line class="step {kind}" x1="{left:.3f}%" x2="{left:.3f}%"'
                f' y1="{heights[place - 1]}" y2="{y}"/>'
            )
    return lines


def _traces(files: RunFiles) -> Section | None:
    found = mapping(files.details("loss_gap"))
    value = found.get("auroc")
    if not is_number(value):
        return None
    low, high = found.get("ci_low"), found.get("ci_high")
    sure = is_number(low) and low > 0.5
    words = (
        "training questions can be told from unseen ones"
        if sure
        else "training questions cannot be told from unseen ones with certainty"
    )
    between = (
        f" [{fixed(low, 2)}, {fixed(high, 2)}]" if is_number(low) else " (no interval: too few)"
    )
    return Section(
        anchor="traces",
        title="Did training leave traces of single rows?",
        short="Traces",
        sentence=f"By how much the loss fell, {words}: AUROC {fixed(value, 2)}{between}, where 0.50"
        " is chance and 1.00 is certainty.",
        head=("Mean loss per token", "Training questions", "Unseen questions"),
        rows=[
            (system_label(system), *(fixed(_loss(found, system, s), 3) for s in ("train", "test")))
            for system in ("baseline", "adapted")
        ],
        note=_what_sets_apart(files),
    )


def _what_sets_apart(files: RunFiles) -> str:
    """Whether training alone sets the two groups apart; it does where the split is random."""
    data = mapping(files.recipe.get("data"))
    method = mapping(data.get("split")).get("method", "clusters")
    other = "whatever else sets the two groups apart counts as a trace here, too."
    if data.get("test_source"):
        return f"The test rows were given, not drawn at random: {other}"
    if method == "head":
        return f"The split follows the order of the rows, not chance: {other}"
    if method == "random":
        return (
            "Valid as a measure of memory because the split is random; near-copies of training"
            " rows among the unseen ones make its traces look fainter."
        )
    return (
        "Valid as a measure of memory because the split is random by clusters: nothing but"
        " training sets the two groups apart."
    )


def _loss(found: dict[str, Any], system: str, split: str) -> Any:
    rows = rows_of(found.get("mean_loss"))
    return next(
        (
            row.get("loss")
            for row in rows
            if (row.get("system"), row.get("split")) == (system, split)
        ),
        None,
    )


def _forgetting(files: RunFiles) -> Section | None:
    found = mapping(files.details("forgetting"))
    rows = rows_of(found.get("texts"))
    if not rows:
        return None
    forgot = [
        _KINDS.get(str(row.get("kind")), "text") for row in rows if row.get("verdict") == "forgets"
    ]
    sentence = (
        f"The adapted model has become worse at {' and '.join(name for name in forgot)}."
        if forgot
        else "No loss was detected on text away from the training data."
        if all(is_number(row.get("ci_low")) for row in rows)
        else ""
    )
    return Section(
        anchor="forgetting",
        title="What did it forget?",
        short="Forgetting",
        sentence=sentence,
        head=(
            "Text",
            "Documents",
            "Base, bits per byte",
            "Adapted, bits per byte",
            "Loss per token, difference",
            "95 % interval",
            "Verdict",
        ),
        rows=[
            (
                _KINDS.get(str(row.get("kind")), one_line(row.get("kind"), 20)),
                count(row.get("n_documents")),
                fixed(row.get("baseline_bits_per_byte"), 3),
                fixed(row.get("adapted_bits_per_byte"), 3),
                _difference(row.get("delta")),
                _between(row),
                one_line(row.get("verdict")),
            )
            for row in rows
        ],
        note=f"Lower is better. {_capital(one_line(found.get('note') or '', 300))}.",
    )


def _difference(value: object) -> str:
    return f"{value:+.3f}".replace("-", "−") if is_number(value) else signed(value)


def _between(row: dict[str, Any]) -> str:
    low, high = row.get("ci_low"), row.get("ci_high")
    if not (is_number(low) and is_number(high)):
        return interval(None, None)
    return f"[{_difference(low)}, {_difference(high)}]"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
