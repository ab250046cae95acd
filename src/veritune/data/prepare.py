"""The whole layer in one call: from a recipe's data section to split examples and their card."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from veritune.data.file_groups import split_grouped
from veritune.data.findings.facts_in_batches import facts_in_batches
from veritune.data.given_splits import Part, added, joined, read_parts
from veritune.data.leak_audit import audit, leaking_rows
from veritune.data.lengths import CountTokens, FurtherLimits, drop_too_long, drop_too_long_for
from veritune.data.prepared_examples import PreparedExamples
from veritune.data.raw_rows import RawRow
from veritune.data.row_keys import TEXTS
from veritune.data.row_store import RowStore
from veritune.data.split import leaked_clusters
from veritune.data.steps import StepCount
from veritune.data.workers import Workers
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

    examples: Sequence[Example]
    card: dict[str, Any]

    def of_split(self, split: Split) -> Iterable[Example]:
        """The examples of one split, in order."""
        if isinstance(self.examples, PreparedExamples):
            return self.examples.of_split(split)
        return (example for example in self.examples if example.split == split)


def prepare(
    section: DataSection,
    seed: int,
    count_tokens: CountTokens | None = None,
    reporter: Reporter | None = None,
    further_limits: Sequence[FurtherLimits] = (),
    *,
    processes: int | None = None,
) -> Prepared:
    """Read, clean, cluster and split; the same section, source and seed give the same result.

    Texts stay in Arrow files and the work on them is shared among processes where there are
    many rows, so that memory holds a few numbers for each row, and a batch of rows.

    Args:
        count_tokens: gives (prompt tokens, answer tokens) of rows; None without a tokenizer.
        further_limits: of other models that must be able to learn the same rows.
        processes: that share the work; by the number of rows and cores if None.  The result
            does not depend on it.

    Raises:
        DataError: the source is at fault, nothing is left of it, or the splits cannot be filled.
        EnvironmentFault: the hub cannot be reached.
    """
    with Workers(processes) as workers:
        return _prepared(
            section, seed, count_tokens, further_limits, reporter or Silent(), workers=workers
        )


def _prepared(
    section: DataSection,
    seed: int,
    count_tokens: CountTokens | None,
    further_limits: Sequence[FurtherLimits],
    reporter: Reporter,
    *,
    workers: Workers,
) -> Prepared:
    parts = read_parts(section, reporter)
    rows, homes, token_counts, steps = _cleaned(
        parts, count_tokens, section, further_limits, reporter=reporter, workers=workers
    )
    matches = find_contamination(
        rows,
        section.contamination,
        rename=section.duplicates.rename_identifiers,
        reporter=reporter,
        workers=workers,
    )
    leaving = {
        match.row for match in matches if section.contamination.drop and homes[match.row] != "test"
    }
    contamination = describe_matches(matches, rows, leaving, section.contamination)
    if section.contamination.against:
        kept = [place for place in range(len(rows)) if place not in leaving]
        steps.append(contamination_step(len(rows), len(leaving), section.contamination))
        rows, homes, token_counts = _at(kept, rows, homes, token_counts)
        _check_left(rows, steps)

    texts = _compared(rows, section, reporter, workers)
    near_duplicates = clusters_of(texts, section.duplicates, reporter, workers.count(len(rows))).ids
    splits, cluster_ids, notice = _splits(rows, near_duplicates, homes, section, seed)
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
        splits, step = _without_leaks(splits, near_duplicates, texts, section)
        steps.append(step)
    names = _names(rows)
    leaks = audit(rows, texts, splits, names, reporter)
    del texts
    used = [place for place, split in enumerate(splits) if split is not None]
    used_splits = [split for split in splits if split is not None]
    examples = PreparedExamples(
        rows.take(used),
        [names[place] for place in used],
        [cluster_ids[place] for place in used],
        used_splits,
    )
    _, _, used_counts = _at(used, rows, homes, token_counts)
    with reporter.task("look into the rows", len(examples)) as task:
        card = make_card(
            joined(parts),
            steps,
            examples,
            used_counts,
            leaks=leaks,
            contamination=contamination,
            facts=facts_in_batches(rows.take(used), task, workers),
        )
    own = [near_duplicates[place] for place in used]
    card.update(_of_groups(card, own, used_splits, notice))
    return Prepared(examples, card)


def write_prepared(prepared: Prepared, folder: Path) -> None:
    """Write ``{train,validation,test}.parquet``, ``card.html`` and, last, ``card.json``."""
    for split in SPLITS:
        write_examples(folder / f"{split}.parquet", prepared.of_split(split))
    write_text(folder / "card.html", render_card(prepared.card))
    write_json(folder / "card.json", prepared.card)


def _cleaned(
    parts: Sequence[Part],
    count_tokens: CountTokens | None,
    section: DataSection,
    further_limits: Sequence[FurtherLimits],
    *,
    reporter: Reporter,
    workers: Workers,
) -> tuple[RowStore, list[Split | None], list[tuple[int, int]] | None, list[StepCount]]:
    """All rows that stay, the split each is given for, their token counts, and the steps.

    Each source is cleaned by itself: a test row that equals a training row is a leak, to be
    reported, not a duplicate to be dropped.
    """
    stores: list[RowStore] = []
    homes: list[Split | None] = []
    token_counts: list[tuple[int, int]] | None = None
    all_steps = []
    for part in parts:
        own: Sequence[RawRow]
        own, steps = clean(
            part.raw.rows,
            section.clean,
            ignore_input=section.input == "ignore",
            workers=workers,
            reporter=reporter,
        )
        _check_left(own, steps)
        own, counts, step = drop_too_long(own, count_tokens, section)
        steps.append(step)
        for further in further_limits:
            own, counts, step = drop_too_long_for(further, own, counts)
            steps.append(step)
        _check_left(own, steps)
        stores.append(RowStore.of(own))
        homes += [part.home] * len(own)
        if counts is not None:
            token_counts = [*(token_counts or []), *counts]
        all_steps.append(steps)
    return RowStore.joined(stores), homes, token_counts, added(all_steps)


def _compared(
    rows: RowStore, section: DataSection, reporter: Reporter, workers: Workers
) -> Compared:
    with reporter.task("compare the rows", len(rows)) as task:
        return Compared.of(
            rows,
            rename_identifiers=section.duplicates.rename_identifiers,
            task=task,
            workers=workers,
        )


def _at(
    places: Sequence[int],
    rows: RowStore,
    homes: Sequence[Split | None],
    token_counts: Sequence[tuple[int, int]] | None,
) -> tuple[RowStore, list[Split | None], list[tuple[int, int]] | None]:
    return (
        rows.take(places),
        [homes[place] for place in places],
        None if token_counts is None else [token_counts[place] for place in places],
    )


def _splits(
    rows: RowStore,
    cluster_ids: Sequence[str],
    homes: Sequence[Split | None],
    section: DataSection,
    seed: int,
) -> tuple[list[Split | None], list[str], str]:
    """Given rows stay where they were given for; the others are divided.

    Returns:
        The split and the unit of statistics of each row, and a notice.
    """
    given = {home for home in homes if home is not None}
    free = [place for place, home in enumerate(homes) if home is None]
    among = [split for split in SPLITS if split not in given]
    groups, with_tests = rows.groups(), rows.with_tests()
    grouped = split_grouped(
        [groups[place] for place in free],
        [cluster_ids[place] for place in free],
        section.split,
        seed,
        among,
        wanted=[with_tests[place] for place in free],
    )
    splits, units = list(homes), list(cluster_ids)
    for place, split, unit in zip(free, grouped.splits, grouped.cluster_ids, strict=True):
        splits[place], units[place] = split, unit
    return splits, units, grouped.notice


def _of_groups(
    card: dict[str, Any], near_duplicates: list[str], splits: Sequence[Split], notice: str
) -> dict[str, Any]:
    """What a card says of near-duplicates where its clusters are files, and the notice."""
    sizes = Counter(near_duplicates)
    origin = card["origin"]
    return {
        "n_near_duplicate_clusters": sum(size > 1 for size in sizes.values()),
        "leaked_clusters": leaked_clusters(near_duplicates, splits),
        "origin": {**origin, "notices": [*origin.get("notices", []), *([notice] * bool(notice))]},
    }


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


def _names(rows: RowStore) -> list[str]:
    """Ids from the rows' content, so that they survive a change of order."""
    seen: Counter[str] = Counter()
    names = []
    for batch in rows.batches():
        for texts in zip(*(batch.column(name).to_pylist() for name in TEXTS), strict=True):
            name = hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


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
