"""What stands behind the numbers: data, generation, adapter, recipe, machine, time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from veritune.report.figures import histogram
from veritune.report.headline import model_name
from veritune.report.leaks import Leaks, make_leaks
from veritune.report.load import RunFiles
from veritune.report.wording import (
    DASH,
    count,
    date,
    duration,
    fixed,
    is_number,
    mapping,
    memory,
    one_line,
    percent,
    rows_of,
    significant,
    system_label,
    visible,
)
from veritune.rows import SPLITS


@dataclass(frozen=True)
class Length:
    """One histogram and its quantiles: label, median, 90 %, 99 %, longest, mean."""

    label: str
    figure: Markup
    quantiles: tuple[str, str, str, str, str]


@dataclass(frozen=True)
class DataView:
    """Section 7."""

    origin: list[tuple[str, str]]
    counts: list[tuple[str, str]]
    splits: list[tuple[str, str, str, str]]
    steps: list[tuple[str, str, bool, str, str, str]]
    failures: list[tuple[str, str]]
    leaks: Leaks | None = None


@dataclass(frozen=True)
class HealthRow:
    """One system of section 8; shares are on 0–100."""

    system: str
    n: str
    shares: list[tuple[str, float | None]]
    mean_new_tokens: str


@dataclass(frozen=True)
class SetUp:
    """Section 9."""

    model: list[tuple[str, str]]
    coverage: list[tuple[str, str, str, str, str]]
    machine: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    stages: list[tuple[str, str, str, str]]
    recipe: str


def make_lengths(files: RunFiles) -> list[Length]:
    """Section 4; empty if no tokens were counted."""
    lengths = mapping(files.card.get("token_lengths"))
    bins = mapping(lengths.get("histogram"))
    edges = _rising(bins.get("edges"))
    views = []
    for name, label in (("source", "Question tokens"), ("target", "Answer tokens")):
        counts, of = bins.get(name), mapping(lengths.get(name))
        if not edges or not isinstance(counts, list) or len(counts) != len(edges) - 1:
            continue
        if not all(is_number(n) for n in counts):
            continue
        marks = [
            (mark, of[key]) for key, mark in (("p50", "half"), ("p90", "90 %")) if _is(of, key)
        ]
        quantiles = tuple(
            fixed(of.get(key), 0 if key == "max" else 1)
            for key in ("p50", "p90", "p99", "max", "mean")
        )
        described = f"{label}: median {quantiles[0]}, 90 % up to {quantiles[1]}"
        figure = histogram(edges, counts, marks, kind=f"is-{name}", description=described)
        views.append(Length(label, figure, quantiles))  # type: ignore[arg-type]
    return views


def make_data(files: RunFiles) -> DataView | None:
    """Section 7; None if no data were prepared."""
    card = files.card
    if not card:
        return None
    origin = mapping(card.get("origin"))
    shown = ("name", "kind", "revision", "licence", "hub_split", "sha256")
    unique = mapping(card.get("unique"))
    counted = [
        ("rows read", card.get("rows_in")),
        ("examples kept", card.get("rows_out")),
        ("exact duplicates among the rows read", card.get("n_exact_duplicates")),
        *((f"distinct {name}s among the rows read", unique.get(name)) for name in unique),
        ("clusters of near-duplicates", card.get("n_clusters")),
        ("examples in the largest cluster", card.get("largest_cluster")),
        ("clusters in more than one split", card.get("leaked_clusters")),
        ("examples with functional tests", card.get("n_with_tests")),
    ]
    sizes, clusters, rates = (
        mapping(card.get(name)) for name in ("splits", "split_clusters", "parse_rate")
    )
    return DataView(
        origin=[(name, one_line(origin[name])) for name in shown if origin.get(name)],
        counts=[(name, count(value)) for name, value in counted if is_number(value)],
        splits=[
            (split, count(sizes.get(split)), count(clusters.get(split)), percent(rates.get(split)))
            for split in SPLITS
            if split in sizes
        ],
        steps=[
            (
                one_line(step.get("name", "")),
                visible(step.get("description", "")),
                step.get("enabled") is not False,
                count(step.get("changed")),
                count(step.get("dropped")),
                count(step.get("rows_after")),
            )
            for step in rows_of(card.get("steps"))
        ],
        failures=[
            (one_line(reason), count(n))
            for reason, n in list(mapping(card.get("parse_failures")).items())[:8]
        ],
        leaks=make_leaks(card),
    )


def make_health(files: RunFiles) -> list[HealthRow]:
    """Section 8; empty if nothing was generated."""
    table = files.details("generation")
    if isinstance(table, dict):
        table = [{"system": name, **mapping(row)} for name, row in table.items()]
    found = {str(row.get("system")): row for row in rows_of(table)}
    order = [name for name in files.systems if name in found]
    names = [*order, *(name for name in found if name not in order)]
    columns = (
        ("cut off at the limit", "truncated_rate"),
        ("no end of turn", "no_eos_rate"),
        ("empty", "empty_rate"),
        ("parses as written", "raw_parse_rate"),
        ("parses as extracted", "extracted_parse_rate"),
    )
    return [
        HealthRow(
            system=system_label(name),
            n=count(found[name].get("n")),
            shares=[(label, _number(found[name].get(key))) for label, key in columns],
            mean_new_tokens=fixed(found[name].get("mean_new_tokens")),
        )
        for name in names
    ]


def make_set_up(files: RunFiles) -> SetUp:
    """Section 9."""
    model, hardware = (mapping(files.manifest.get(name)) for name in ("model", "hardware"))
    lora = mapping(files.recipe.get("lora"))
    name, description = model_name(files)
    share = model.get("trainable_percent")
    about = [
        ("base model", name),
        ("what it is", description),
        ("revision", one_line(model.get("revision") or "")),
        ("parameters", _known(model.get("total_parameters"), count)),
        ("trainable", _known(model.get("trainable_parameters"), count)),
        ("trainable share", f"{share:.4f} %" if is_number(share) else ""),
        ("rank r", _known(lora.get("r"), count)),
        ("alpha", _known(lora.get("alpha"), significant)),
        ("dropout", _known(lora.get("dropout"), significant)),
        ("targets", _targets(lora.get("target_modules"))),
    ]
    machine = [
        ("processor", one_line(hardware.get("cpu") or "")),
        ("cores", _known(hardware.get("cores"), count)),
        ("memory", _known(hardware.get("memory_bytes"), memory)),
        ("GPU", one_line(hardware.get("gpu") or ("none" if hardware else ""))),
        ("number format", one_line(hardware.get("dtype") or "")),
        ("seed", _known(files.manifest.get("seed"), count)),
        ("started", date(files.manifest["created"]) if files.manifest.get("created") else ""),
        ("recipe SHA-256", one_line(files.manifest.get("recipe_sha256") or "")),
    ]
    versions = {
        "veritune": files.manifest.get("veritune_version"),
        **mapping(files.manifest.get("versions")),
    }
    return SetUp(
        model=[(term, text) for term, text in about if text],
        coverage=[
            (
                one_line(row.get("module", "")),
                count(row.get("count")),
                count(row.get("adapted", row.get("count"))),
                count(row.get("r") or None),
                count(row.get("parameters") or None),
            )
            for row in rows_of(model.get("coverage"))
        ],
        machine=[(term, text) for term, text in machine if text],
        versions=[(one_line(key), one_line(text)) for key, text in versions.items() if text],
        stages=_stages(files),
        recipe=visible(files.recipe_text),
    )


def not_measured(files: RunFiles) -> list[tuple[str, str]]:
    """Section 10: what, and why."""
    rows = rows_of(files.details("not_measured"))
    return [(visible(row.get("what", DASH)), visible(row.get("why", DASH))) for row in rows]


def _stages(files: RunFiles) -> list[tuple[str, str, str, str]]:
    """Stage, time, tokens, tokens a second."""
    rows = []
    for stage in ("prepare", "train", "full_finetune", "evaluate"):
        record = files.stage(stage)
        if not record:
            continue
        tokens, rate = DASH, DASH
        if stage in ("train", "full_finetune"):
            summary = mapping(record.get("summary"))
            trained = summary.get("real_tokens", summary.get("supervised_tokens"))
            tokens = f"{count(trained)} trained" if is_number(trained) else DASH
            rate = significant(summary.get("train_tokens_per_second"))
        rows.append((stage.replace("_", " "), duration(record.get("seconds")), tokens, rate))
        for name, timing in mapping(record.get("per_system")).items():
            seconds, new = mapping(timing).get("seconds"), mapping(timing).get("new_tokens")
            rows.append(
                (
                    f"  {system_label(name)}",
                    duration(seconds),
                    f"{count(new)} generated" if is_number(new) and new else DASH,
                    _rate(new, seconds),
                )
            )
    return rows


def _rate(tokens: object, seconds: object) -> str:
    if not (is_number(tokens) and is_number(seconds)) or tokens <= 0 or seconds <= 0:
        return DASH
    return significant(round(tokens / seconds))


def _targets(value: Any) -> str:
    return ", ".join(map(one_line, value)) if isinstance(value, list) else one_line(value or "")


def _known(value: Any, show: Any) -> str:
    return str(show(value)) if is_number(value) else ""


def _number(value: object) -> float | None:
    return float(value) if is_number(value) else None


def _is(of: dict[str, Any], key: str) -> bool:
    return is_number(of.get(key))


def _rising(edges: Any) -> list[float]:
    """The edges of a histogram, or none if they are not rising numbers."""
    if not isinstance(edges, list) or not all(is_number(edge) for edge in edges):
        return []
    return edges if all(low < high for low, high in pairwise(edges)) else []
