"""The verdict on top: one sentence, what it rests on, and what a reader must know first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from veritune.config import BUNDLED_MODEL
from veritune.report.load import RunFiles
from veritune.report.wording import (
    corpus,
    count,
    date,
    is_number,
    mapping,
    metric_label,
    one_line,
    percent,
    plural,
    system_label,
    visible,
)

BUNDLED_DESCRIPTION = "SmolLM2-135M-Instruct, 4-bit (Q4_1) and dequantised"
"""What the manifest says of the bundled model; said even where the manifest is missing."""

VERDICT_MARKS = {
    "better": ("is-better", "▲"),
    "worse": ("is-worse", "▼"),
    "no difference detected": ("is-same", "≈"),
    "not measured": ("is-unmeasured", "○"),
}


@dataclass(frozen=True)
class Headline:
    """The top of the report.

    Attributes:
        badge: the verdict in words, or what is there instead.
        kind, symbol: class and sign of the badge.
        sentence: the verdict's sentence, whole.
        lead, rest: the same, cut after its claim.
        facts: (term, text, note).
        warnings: what makes numbers look better than they are, first.
        notices: what else happened on the way.
    """

    badge: str
    kind: str
    symbol: str
    sentence: str
    lead: str
    rest: str
    run: str
    date: str
    facts: list[tuple[str, str, str]]
    warnings: list[str]
    notices: list[str]


def make_headline(files: RunFiles) -> Headline:
    """The verdict, or the plain sentence that there is none yet."""
    conclusion = files.conclusion
    if conclusion is None:
        badge, (kind, symbol) = "no verdict yet", VERDICT_MARKS["not measured"]
        sentence = f"{_what_is_missing(files)}."
    else:
        badge = visible(conclusion.verdict)
        kind, symbol = VERDICT_MARKS.get(conclusion.verdict, VERDICT_MARKS["not measured"])
        sentence = visible(conclusion.sentence)
    lead, colon, rest = sentence.partition(": ") if conclusion else (sentence, "", "")
    return Headline(
        badge=badge,
        kind=kind,
        symbol=symbol,
        sentence=sentence,
        lead=f"{lead}{colon.strip()}",
        rest=rest,
        run=visible(files.path.resolve().name),
        date=date(_latest(files)),
        facts=_facts(files),
        warnings=_warnings(files),
        notices=[visible(note) for note in _texts(files.manifest.get("notices"))],
    )


def model_name(files: RunFiles) -> tuple[str, str]:
    """The base model and, where its name alone would mislead, what it is."""
    model = mapping(files.manifest.get("model"))
    chosen = mapping(files.recipe.get("model")).get("name_or_path")
    name = model.get("name") or chosen or "unknown"
    description = model.get("description") or ""
    if BUNDLED_MODEL in (name, chosen):
        # How these weights came about belongs to every number made with them.
        description = description or BUNDLED_DESCRIPTION
    if mapping(files.recipe.get("model")).get("init") == "random":
        description = "; ".join(part for part in (str(description), "random weights") if part)
    return one_line(name), one_line(description) if description != name else ""


def _what_is_missing(files: RunFiles) -> str:
    if any("comparison.json" in problem for problem in files.problems):
        return "No verdict: comparison.json could not be read"
    if not files.examples:
        return "No verdict yet: this run has no prepared data"
    if not files.stage("train"):
        return "No verdict yet: the model has not been trained"
    return "No verdict yet: the systems have not been compared"


def _latest(files: RunFiles) -> Any:
    finished = [files.stage(name).get("finished") for name in ("evaluate", "train", "prepare")]
    return next((stamp for stamp in finished if stamp), files.manifest.get("created", "undated"))


def _facts(files: RunFiles) -> list[tuple[str, str, str]]:
    name, description = model_name(files)
    facts = [("Base model", name, description)]
    conclusion = files.conclusion
    if conclusion is not None:
        metric = conclusion.primary_metric
        facts.append(("Primary metric", metric_label(metric), "fixed before training"))
        choice = mapping(files.details("best_baseline_choice"))
        best = conclusion.best_baseline
        value = mapping(choice.get("values")).get(best)
        on = one_line(choice.get("split") or "validation")
        note = f"chosen on {on}" + (f", {corpus(metric, value)}" if is_number(value) else "")
        facts.append(("Best baseline", system_label(best), note))
        deciding = (row for row in conclusion.comparisons if row.metric == metric)
        row = next((row for row in deciding if row.against == best), None)
        if row is not None:
            clusters = plural(row.n_clusters, "cluster")
            facts.append(("Evidence", plural(row.n_examples, "unseen question"), f"in {clusters}"))
        facts.append(_trainings(files))
    reads = files.manifest.get("test_reads")
    if is_number(reads):
        note = "once, at the end" if reads == 1 else "each one a chance to look better by luck"
        facts.append(("Test set scored with", plural(reads, "adapter"), note))
    return facts


def _trainings(files: RunFiles) -> tuple[str, str, str]:
    """How many trainings the intervals speak of."""
    seeds = mapping(files.details("seeds")).get("seeds")
    if isinstance(seeds, list) and len(seeds) > 1:
        return ("Trainings", plural(len(seeds), "seed"), "intervals count how much they differ")
    return ("Trainings", "1 seed", "no interval covers what another seed would give")


def _warnings(files: RunFiles) -> list[str]:
    warnings = [*files.problems, *_of_another_time(files)]
    leaked = files.card.get("leaked_clusters")
    if is_number(leaked) and leaked > 0:
        warnings.append(
            f"{plural(leaked, 'cluster')} of near-duplicates "
            f"{'has' if leaked == 1 else 'have'} rows in more than one split:"
            " scores on test look better than they are."
        )
    note = mapping(files.details("best_baseline_choice")).get("note")
    if note:
        warnings.append(visible(note))
    rate = mapping(files.details("references")).get("test")
    if rate is None:
        rate = mapping(files.card.get("parse_rate")).get("test")
    if is_number(rate) and rate < 99.5:
        warnings.append(
            f"Only {percent(rate)} of the test references are valid Python:"
            " an answer can equal its reference and still not run."
        )
    reads = files.manifest.get("test_reads")
    if is_number(reads) and reads > 1:
        warnings.append(
            f"This test set has been scored with {count(reads)} adapters; choosing among them"
            " by these scores would make it a validation set."
        )
    return warnings


def _of_another_time(files: RunFiles) -> list[str]:
    """What a stopped or repeated stage has left side by side."""
    if files.conclusion is None:
        return []
    record = files.stage("evaluate")
    again = "`veritune evaluate` on this run makes them agree."
    if record.get("unfinished"):
        return [f"The last evaluation did not end: answers, scores and verdict may differ; {again}"]
    judged = record.get("adapter_sha256")
    if judged and files.adapter_sha256 and judged != files.adapter_sha256:
        return [f"The verdict is of an earlier adapter, not of the one that is here now; {again}"]
    return []


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
