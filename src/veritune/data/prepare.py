"""The whole layer in one call: from a recipe's data section to split examples and their card."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from veritune.atomic import write_json, write_text
from veritune.config import DataSection
from veritune.data.card import make_card
from veritune.data.card_page import render_card
from veritune.data.clean import clean
from veritune.data.compared import Compared
from veritune.data.contamination import contamination_step, describe_matches, find_contamination
from veritune.data.dedupe import clusters_of
from veritune.data.given_splits import Part, added, joined, read_parts
from veritune.data.leak_audit import audit, leaking_rows
from veritune.data.lengths import CountTokens, FurtherLimits, drop_too_long, drop_too_long_for
from veritune.data.raw_rows import RawRow
from veritune.data.split import split_rows
from veritune.data.steps import StepCount
from veritune.errors import DataError
from veritune.progress import Reporter, Silent
from veritune.rows import SPLITS, Example, Split, write_examples


@dataclass(frozen=True, slots=True)
class Prepared:
    """What ``prepare`` gives.

    Attributes:
        examples: in the source's own order, each with its split.
        card: the content of ``card.json``.
    """

    examples: list[Example]
    card: dict[str, Any]


def prepare(
    section: DataSection,
    seed: int,
    count_tokens: CountTokens | None = None,
    reporter: Reporter | None = None,
    further_limits: Sequence[FurtherLimits] = (),
) -> Prepared:
    """Read, clean, cluster and split; the same section, source and seed give the same result.

    Args:
        count_tokens: gives (prompt tokens, answer tokens) of rows; None without a tokenizer.
        further_limits: of other models that must be able to learn the same rows.

    Raises:
        DataError: the source is at fault, nothing is left of it, or the splits cannot be filled.
        EnvironmentFault: the hub cannot be reached.
    """
    reporter = reporter or Silent()
    parts = read_parts(section, reporter)
    rows, homes, token_counts, steps = _cleaned(parts, count_tokens, section, further_limits)
    texts = _compared(rows, section, reporter)

    matches = find_contamination(texts, rows, section.contamination, reporter)
    leaving = {
        match.row for match in matches if section.contamination.drop and homes[match.row] != "test"
    }
    contamination = describe_matches(matches, rows, leaving, section.contamination)
    if section.contamination.against:
        kept = [place for place in range(len(rows)) if place not in leaving]
        steps.append(contamination_step(len(rows), len(leaving), section.contamination))
        rows, homes, token_counts = _at(kept, rows, homes, token_counts)
        texts = texts.at(kept)
        _check_left(rows, steps)

    cluster_ids = clusters_of(texts, section.duplicates, reporter).ids
    splits = _splits(cluster_ids, homes, section, seed)
    n_used = sum(split is not None for split in splits)
    steps.append(
        StepCount(
            "split",
            "leave out rows that no split asks for",
            True,
            0,
            len(rows) - n_used,
            n_used,
        )
    )
    if section.split.on_leak == "drop":
        splits, step = _without_leaks(splits, cluster_ids, texts, section)
        steps.append(step)
    names = _names(rows)
    leaks = audit(rows, texts, splits, names, reporter)
    examples = _examples(rows, names, cluster_ids, splits)
    used = [place for place, split in enumerate(splits) if split is not None]
    _, _, used_counts = _at(used, rows, homes, token_counts)
    card = make_card(joined(parts), steps, examples, used_counts)
    return Prepared(examples, {**card, "leak_audit": leaks, "contamination": contamination})


def write_prepared(prepared: Prepared, folder: Path) -> None:
    """Write ``{train,validation,test}.parquet``, ``card.html`` and, last, ``card.json``."""
    for split in SPLITS:
        rows = [example for example in prepared.examples if example.split == split]
        write_examples(folder / f"{split}.parquet", rows)
    write_text(folder / "card.html", render_card(prepared.card))
    write_json(folder / "card.json", prepared.card)


def _cleaned(
    parts: Sequence[Part],
    count_tokens: CountTokens | None,
    section: DataSection,
    further_limits: Sequence[FurtherLimits],
) -> tuple[list[RawRow], list[Split | None], list[tuple[int, int]] | None, list[StepCount]]:
    """All rows that stay, the split each is given for, their token counts, and the steps.

    Each source is cleaned by itself: a test row that equals a training row is a leak, to be
    reported, not a duplicate to be dropped.
    """
    rows: list[RawRow] = []
    homes: list[Split | None] = []
    token_counts: list[tuple[int, int]] | None = None
    all_steps = []
    for part in parts:
        own = part.raw.rows
        if section.input == "ignore":
            own = [replace(row, input="") for row in own]
        own, steps = clean(own, section.clean)
        _check_left(own, steps)
        own, counts, step = drop_too_long(own, count_tokens, section)
        steps.append(step)
        for further in further_limits:
            own, counts, step = drop_too_long_for(further, own, counts)
            steps.append(step)
        _check_left(own, steps)
        rows += own
        homes += [part.home] * len(own)
        if counts is not None:
            token_counts = [*(token_counts or []), *counts]
        all_steps.append(steps)
    return rows, homes, token_counts, added(all_steps)


def _compared(rows: Sequence[RawRow], section: DataSection, reporter: Reporter) -> Compared:
    with reporter.task("compare the rows", len(rows)) as task:
        return Compared.of(
            rows,
            rename_identifiers=section.duplicates.rename_identifiers,
            with_named=bool(section.contamination.against),
            task=task,
        )


def _at(
    places: Sequence[int],
    rows: Sequence[RawRow],
    homes: Sequence[Split | None],
    token_counts: Sequence[tuple[int, int]] | None,
) -> tuple[list[RawRow], list[Split | None], list[tuple[int, int]] | None]:
    return (
        [rows[place] for place in places],
        [homes[place] for place in places],
        None if token_counts is None else [token_counts[place] for place in places],
    )


def _splits(
    cluster_ids: Sequence[str], homes: Sequence[Split | None], section: DataSection, seed: int
) -> list[Split | None]:
    """Given rows stay where they were given for; the others are divided."""
    given = {home for home in homes if home is not None}
    free = [place for place, home in enumerate(homes) if home is None]
    among = [split for split in SPLITS if split not in given]
    found = split_rows([cluster_ids[place] for place in free], section.split, seed, among)
    splits = list(homes)
    for place, split in zip(free, found, strict=True):
        splits[place] = split
    return splits


def _without_leaks(
    splits: Sequence[Split | None],
    cluster_ids: Sequence[str],
    texts: Compared,
    section: DataSection,
) -> tuple[list[Split | None], StepCount]:
    before = sum(split is not None for split in splits)
    leaking = leaking_rows(texts, splits, cluster_ids, section.duplicates)
    kept = [None if place in leaking else split for place, split in enumerate(splits)]
    if "train" not in kept:
        raise DataError(
            "every training row repeats a validation or test row",
            received=f"{len(leaking)} training rows, all of them leaking",
            accepted="training rows of their own",
            next_step="give other training rows, or set data.split.on_leak=report to see the pairs"
            " in the data card",
        )
    step = StepCount(
        "drop_leaks",
        "drop training rows that repeat a validation or test row",
        True,
        0,
        len(leaking),
        before - len(leaking),
    )
    return kept, step


def _names(rows: Sequence[RawRow]) -> list[str]:
    """Ids from the rows' content, so that they survive a change of order."""
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        text = "\0".join((row.instruction, row.input, row.output))
        name = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def _examples(
    rows: Sequence[RawRow],
    names: Sequence[str],
    cluster_ids: Sequence[str],
    splits: Sequence[Split | None],
) -> list[Example]:
    return [
        Example(
            example_id=name,
            cluster_id=cluster,
            split=split,
            instruction=row.instruction,
            input=row.input,
            reference=row.output,
            tests=row.tests,
            test_setup=row.test_setup,
            entry_point=row.entry_point,
            source=row.source,
        )
        for row, name, cluster, split in zip(rows, names, cluster_ids, splits, strict=True)
        if split is not None
    ]


def _check_left(rows: Sequence[RawRow], steps: Sequence[StepCount]) -> None:
    if rows:
        return
    dropped = ", ".join(f"{step.name} dropped {step.dropped}" for step in steps if step.dropped)
    raise DataError(
        "no row is left after cleaning",
        received=dropped,
        accepted="at least one row for every split",
        next_step="turn off the step that drops too much (data.clean.STEP=false), raise the"
        " token limits, or check data.columns",
    )
