"""The data card: what the data are, what preparation did to them, what came out."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from veritune.data.findings import find_all, modules_of
from veritune.data.lengths import length_statistics
from veritune.data.raw_rows import RawRows
from veritune.data.split import leaked_clusters
from veritune.data.steps import StepCount
from veritune.data.syntax import parse_failure
from veritune.rows import SPLITS, Example

_N_EXAMPLES = 10
_N_REASONS = 20
_N_MODULES = 100


def make_card(
    raw: RawRows,
    steps: Sequence[StepCount],
    examples: Sequence[Example],
    token_counts: Sequence[tuple[int, int]] | None,
) -> dict[str, Any]:
    """The content of ``card.json``.

    ``unique`` and ``n_exact_duplicates`` describe the rows as they were read; everything from
    ``n_clusters`` on describes the examples that came out.  Rates are in percent.
    """
    failures = [parse_failure(example.reference) for example in examples]
    clusters = Counter(example.cluster_id for example in examples)
    return {
        "origin": raw.origin,
        "python": platform.python_version(),
        "rows_in": len(raw.rows),
        "rows_out": len(examples),
        "steps": [asdict(step) for step in steps],
        "unique": {
            name: len({getattr(row, name) for row in raw.rows})
            for name in ("instruction", "input", "output")
        },
        "n_exact_duplicates": len(raw.rows)
        - len({(row.instruction, row.input, row.output) for row in raw.rows}),
        "n_clusters": len(clusters),
        "largest_cluster": max(clusters.values(), default=0),
        "n_near_duplicate_clusters": sum(size > 1 for size in clusters.values()),
        "leaked_clusters": leaked_clusters(
            [example.cluster_id for example in examples], [example.split for example in examples]
        ),
        "parse_rate": _parse_rates(examples, failures),
        "parse_failures": dict(
            Counter(reason for reason in failures if reason).most_common(_N_REASONS)
        ),
        "findings": find_all(
            examples,
            inputs_left_out=any(row.input for row in raw.rows)
            and not any(example.input for example in examples),
        ),
        "modules": modules_of(examples)[:_N_MODULES],
        "token_lengths": length_statistics(token_counts) if token_counts is not None else None,
        "character_lengths": length_statistics(
            [
                (len(example.instruction) + len(example.input), len(example.reference))
                for example in examples
            ]
        ),
        "splits": {split: sum(example.split == split for example in examples) for split in SPLITS},
        "split_clusters": {
            split: len({example.cluster_id for example in examples if example.split == split})
            for split in SPLITS
        },
        "n_with_tests": sum(bool(example.tests) for example in examples),
        "n_test_rows_with_tests": sum(
            bool(example.tests) and example.split == "test" for example in examples
        ),
        "examples": [
            {
                "example_id": examples[place].example_id,
                "split": examples[place].split,
                "instruction": examples[place].instruction,
                "input": examples[place].input,
                "reference": examples[place].reference,
                "parses": failures[place] is None,
            }
            for place in _evenly_spaced(len(examples))
        ],
    }


def _parse_rates(
    examples: Sequence[Example], failures: Sequence[str | None]
) -> dict[str, float | None]:
    rates: dict[str, float | None] = {}
    for name in ("all", *SPLITS):
        parses = [
            failure is None
            for example, failure in zip(examples, failures, strict=True)
            if name in ("all", example.split)
        ]
        rates[name] = round(100 * sum(parses) / len(parses), 2) if parses else None
    return rates


def _evenly_spaced(n_examples: int) -> list[int]:
    count = min(_N_EXAMPLES, n_examples)
    return [round(place) for place in np.linspace(0, max(0, n_examples - 1), count)]
