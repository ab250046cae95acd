"""The data card: what the data are, what preparation did to them, what came out."""

from __future__ import annotations

import platform
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from veritune.data.clusters_card import cluster_structure, copies_of
from veritune.data.findings import RowFacts, SingleRows, find_all
from veritune.data.findings.masked import cut, without_found
from veritune.data.findings.whole import about_leaks, about_the_whole, in_order
from veritune.data.lengths import distribution, length_statistics
from veritune.data.licence import licence_of
from veritune.data.raw_rows import RawRows
from veritune.data.split import leaked_clusters
from veritune.data.steps import StepCount
from veritune.data.syntax import parse_failure
from veritune.data.vocabulary import Vocabulary
from veritune.rows import SPLITS, Example, Split

_N_EXAMPLES = 10
_N_REASONS = 20
_N_MODULES = 100
_SHOWN_CHARACTERS = 4000


def make_card(
    raw: RawRows,
    steps: Sequence[StepCount],
    examples: Sequence[Example],
    token_counts: Sequence[tuple[int, int]] | None,
    *,
    leaks: dict[str, Any],
    contamination: dict[str, Any],
    facts: Iterable[RowFacts] | None = None,
) -> dict[str, Any]:
    """The content of ``card.json``.

    ``unique`` and ``n_exact_duplicates`` describe the rows as they were read; everything from
    ``n_clusters`` on describes the examples that came out.  Rates are in percent.  Secrets and
    personal data that are found in a text are masked wherever the card shows it.

    Args:
        leaks: what the leak audit found.
        contamination: what the comparison with benchmarks found.
        facts: of each example in order, where other processes look at the rows; see
            ``findings.facts_of``.
    """
    copies = copies_of(raw.rows)
    seen = _Seen(len(examples))
    findings, rows, secrets = find_all(
        examples,
        facts,
        source_has_inputs=copies["unique"]["input"] > 1 or any(row.input for row in raw.rows[:1]),
        unfenced=all(step.enabled for step in steps if step.name == "unfence"),
        also=seen.add,
    )
    clusters = Counter(seen.cluster_ids)
    card: dict[str, Any] = {
        "origin": raw.origin,
        "licence": licence_of(raw.origin),
        "python": platform.python_version(),
        "rows_in": len(raw.rows),
        "rows_out": len(examples),
        "steps": [asdict(step) for step in steps],
        **copies,
        "n_clusters": len(clusters),
        "largest_cluster": max(clusters.values(), default=0),
        "n_near_duplicate_clusters": sum(size > 1 for size in clusters.values()),
        "clusters": cluster_structure(examples, seen.cluster_ids, clusters),
        "leaked_clusters": leaked_clusters(seen.cluster_ids, seen.splits),
        **_of_rows(rows),
        "token_lengths": length_statistics(token_counts) if token_counts is not None else None,
        "character_lengths": length_statistics(seen.lengths()),
        "vocabulary": seen.vocabulary.to_json(),
        **_of_splits(seen),
        "examples": [_shown(examples[place]) for place in _evenly_spaced(len(examples))],
    }
    found = [
        *findings,
        *about_the_whole(card, token_counts),
        *about_leaks(leaks, contamination),
    ]
    card |= {
        "findings": in_order([finding.to_json() for finding in found]),
        "leak_audit": leaks,
        "contamination": contamination,
    }
    return without_found(card, secrets)


class _Seen:
    """What is read off the examples beside their findings, in the same pass."""

    def __init__(self, n_rows: int) -> None:
        self.cluster_ids: list[str] = []
        self.splits: list[Split] = []
        self.n_with_tests: Counter[str] = Counter()
        self.vocabulary = Vocabulary(n_rows)
        self._questions, self._answers = array("q"), array("q")

    def add(self, example: Example) -> None:
        """Take in one example."""
        self.cluster_ids.append(example.cluster_id)
        self.splits.append(example.split)
        self.n_with_tests[example.split] += bool(example.tests)
        self.vocabulary.add(example)
        self._questions.append(len(example.instruction) + len(example.input))
        self._answers.append(len(example.reference))

    def lengths(self) -> np.ndarray[Any, Any]:
        """Characters of each question and answer, (examples, 2)."""
        return np.stack([np.asarray(self._questions), np.asarray(self._answers)], axis=1)


def _of_splits(seen: _Seen) -> dict[str, Any]:
    n_rows = Counter(seen.splits)
    clusters = Counter(split for split, _ in set(zip(seen.splits, seen.cluster_ids, strict=True)))
    return {
        "splits": {split: n_rows[split] for split in SPLITS},
        "split_clusters": {split: clusters[split] for split in SPLITS},
        "n_with_tests": seen.n_with_tests.total(),
        "n_test_rows_with_tests": seen.n_with_tests["test"],
    }


def _of_rows(rows: SingleRows) -> dict[str, Any]:
    """What was counted in one pass over the rows."""
    return {
        "parse_rate": _rates(rows.parsed, rows.n_rows),
        "compile_rate": _rates(rows.parsed - rows.refused, rows.n_rows),
        "parse_failures": dict(rows.reasons.most_common(_N_REASONS)),
        "languages": dict(rows.languages.most_common()),
        "tasks": {"actions": rows.actions.to_json(), "subjects": rows.subjects.to_json()},
        "shapes": dict(rows.shapes.most_common()),
        "lines": distribution(rows.n_lines),
        "complexity": distribution(rows.complexity),
        "most_complex": rows.most_complex(),
        "n_modules": len(rows.modules),
        "modules": rows.modules_found()[:_N_MODULES],
    }


def _rates(counts: Counter[str], of: Counter[str]) -> dict[str, float | None]:
    """Percent of all rows and of each split's."""
    return {
        name: round(100 * part / whole, 2) if whole else None
        for name, part, whole in (
            ("all", counts.total(), of.total()),
            *((split, counts[split], of[split]) for split in SPLITS),
        )
    }


def _shown(example: Example) -> dict[str, Any]:
    return {
        "example_id": example.example_id,
        "split": example.split,
        "instruction": cut(example.instruction, _SHOWN_CHARACTERS),
        "input": cut(example.input, _SHOWN_CHARACTERS),
        "reference": cut(example.reference, _SHOWN_CHARACTERS),
        "parses": parse_failure(example.reference) is None,
    }


def _evenly_spaced(n_examples: int) -> list[int]:
    count = min(_N_EXAMPLES, n_examples)
    return [round(place) for place in np.linspace(0, max(0, n_examples - 1), count)]
