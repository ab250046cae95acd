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
from veritune.data.dedupe import find_clusters
from veritune.data.lengths import CountTokens, FurtherLimits, drop_too_long, drop_too_long_for
from veritune.data.raw_rows import RawRow
from veritune.data.sources import read_rows
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
    raw = read_rows(section, reporter)
    rows = raw.rows
    if section.input == "ignore":
        rows = [replace(row, input="") for row in rows]
    rows, steps = clean(rows, section.clean)
    _check_left(rows, steps)
    rows, token_counts, step = drop_too_long(rows, count_tokens, section)
    steps.append(step)
    for further in further_limits:
        rows, token_counts, step = drop_too_long_for(further, rows, token_counts)
        steps.append(step)
    _check_left(rows, steps)

    cluster_ids = find_clusters(rows, reporter).ids
    splits = split_rows(cluster_ids, section.split, seed)
    used = [place for place, split in enumerate(splits) if split is not None]
    steps.append(
        StepCount(
            "split",
            "leave out rows that no split asks for",
            True,
            0,
            len(rows) - len(used),
            len(used),
        )
    )
    examples = _examples(rows, cluster_ids, splits)
    if token_counts is not None:
        token_counts = [token_counts[place] for place in used]
    return Prepared(examples, make_card(raw, steps, examples, token_counts))


def write_prepared(prepared: Prepared, folder: Path) -> None:
    """Write ``{train,validation,test}.parquet``, ``card.html`` and, last, ``card.json``."""
    for split in SPLITS:
        rows = [example for example in prepared.examples if example.split == split]
        write_examples(folder / f"{split}.parquet", rows)
    write_text(folder / "card.html", render_card(prepared.card))
    write_json(folder / "card.json", prepared.card)


def _examples(
    rows: Sequence[RawRow], cluster_ids: Sequence[str], splits: Sequence[Split | None]
) -> list[Example]:
    """Examples whose ids come from their content, so that they survive a change of order."""
    seen: Counter[str] = Counter()
    examples = []
    for row, cluster, split in zip(rows, cluster_ids, splits, strict=True):
        text = "\0".join((row.instruction, row.input, row.output))
        name = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
        seen[name] += 1
        if split is None:
            continue
        examples.append(
            Example(
                example_id=name if seen[name] == 1 else f"{name}-{seen[name]}",
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
        )
    return examples


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
