"""Findings about the data as a whole: leaks, copies, lengths, sizes, licence.

They are read off the card, so each can be checked against its numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from veritune.config import EvaluateSection
from veritune.data.findings.finding import LEVELS, Finding, Level

_ORDER = (
    *("secrets", "leaks", "torn_clusters", "contaminated", "personal_data", "copies_kept"),
    *("does_not_parse", "several_answers", "dropped_too_long", "does_not_compile", "no_code"),
    *("many_questions", "one_cluster", "small_test", "answers_cut", "long_pairs", "licence"),
    *("few_rows", "missing_modules", "needs_the_outside"),
)
_LIMIT = re.compile(r"(max_\w+_tokens)=(\d+)")
_SMALL_TEST, _FEW_ROWS = 100, 1000
_ROWS_FOR_TEST = 4
_LARGE_CLUSTER_PERCENT = 10
_DROPPED_PERCENT = 2
_TOKENS = 64


def in_order(findings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings of a card, the most urgent first; within a level what spoils a result most."""
    rank = {name: place for place, name in enumerate(_ORDER)}
    return sorted(
        findings,
        key=lambda item: (LEVELS.index(item["level"]), rank.get(item["name"], len(rank))),
    )


def about_the_whole(
    card: dict[str, Any], token_counts: Sequence[tuple[int, int]] | None
) -> list[Finding]:
    """What the rows' numbers say.

    Args:
        card: with its steps, splits, clusters and origin.
    """
    return [*_copies(card), *_sizes(card), *_lengths(card, token_counts), *_licence(card)]


def about_leaks(leaks: dict[str, Any], contamination: dict[str, Any]) -> list[Finding]:
    """What the leak audit and the comparison with benchmarks say."""
    return [*_leaks(leaks), *_contaminated(contamination)]


def _finding(
    name: str,
    level: Level,
    counts: tuple[int, int],
    *,
    title: str,
    meaning: str,
    setting: str = "",
) -> Finding:
    return Finding(name, level, title, meaning, setting, *counts, False, {}, [])


def _leaks(leaks: dict[str, Any]) -> Iterator[Finding]:
    for split in ("test", "validation"):
        shares = leaks.get(split)
        if not shares or not shares["n_rows"]:
            continue
        near = max(shares[side]["n_ge_0.7"] for side in ("question", "answer"))
        if near:
            yield _finding(
                "leaks",
                "act" if split == "test" else "look",
                (near, shares["n_rows"]),
                title=f"{split} rows have a near-copy among the training rows",
                meaning="Their scores measure memory, not skill. The leak audit below shows the"
                " nearest pairs.",
                setting="data.split.on_leak=drop",
            )
            return


def _contaminated(found: dict[str, Any]) -> Iterator[Finding]:
    kept = found.get("n_rows", 0) - found.get("n_dropped", 0)
    if kept:
        yield _finding(
            "contaminated",
            "act",
            (kept, found["n_rows"]),
            title="rows that repeat a benchmark's task were kept",
            meaning="A model trained on a benchmark's tasks cannot be judged by it.",
            setting="data.contamination.drop=true",
        )


def _copies(card: dict[str, Any]) -> Iterator[Finding]:
    steps = {step["name"]: step for step in card["steps"]}
    is_kept = not steps.get("drop_exact_duplicates", {"enabled": True})["enabled"]
    if card["n_exact_duplicates"] and is_kept:
        yield _finding(
            "copies_kept",
            "act",
            (card["n_exact_duplicates"], card["rows_in"]),
            title="rows repeat an earlier row exactly, and are kept",
            meaning="They count twice in training and stretch the test.",
            setting="data.clean.drop_exact_duplicates=true",
        )
    if card["leaked_clusters"]:
        yield _finding(
            "torn_clusters",
            "act",
            (card["leaked_clusters"], card["n_clusters"]),
            title="clusters of near-duplicates have rows in more than one split",
            meaning="Test scores will look better than they are.",
            setting="data.split.method=clusters",
        )
    if 100 * card["largest_cluster"] >= _LARGE_CLUSTER_PERCENT * max(100, card["rows_out"]):
        yield _finding(
            "one_cluster",
            "look",
            (card["largest_cluster"], card["rows_out"]),
            title="rows are near-duplicates of each other",
            meaning="They stay together in one split and count as one in the statistics. If they"
            " are not alike, the threshold is too low.",
            setting="data.duplicates.answer_jaccard=0.8",
        )


def _sizes(card: dict[str, Any]) -> Iterator[Finding]:
    n_test, n_train, n_all = card["splits"]["test"], card["splits"]["train"], card["rows_out"]
    unused = sum(step["dropped"] for step in card["steps"] if step["name"] == "split")
    if n_test < _SMALL_TEST:
        yield _finding(
            "small_test",
            "look",
            (n_test, n_all),
            title="examples are for the test",
            meaning=f"With fewer than {_SMALL_TEST} only large differences can be told from"
            " chance.",
            setting=f"data.split.test={_SMALL_TEST}"
            if n_all + unused >= _ROWS_FOR_TEST * _SMALL_TEST
            else "",
        )
    if n_train < _FEW_ROWS:
        yield _finding(
            "few_rows",
            "know",
            (n_train, n_all),
            title="examples are for training",
            meaning="So few can be learnt by heart: stop when the validation loss rises.",
            setting="train.early_stopping_patience=2",
        )


def _lengths(
    card: dict[str, Any], token_counts: Sequence[tuple[int, int]] | None
) -> Iterator[Finding]:
    step = next((step for step in card["steps"] if step["name"] == "drop_too_long"), None)
    before = step["dropped"] + step["rows_after"] if step else 0
    if step and 100 * step["dropped"] > _DROPPED_PERCENT * before:
        limit = _LIMIT.search(step["description"])
        yield _finding(
            "dropped_too_long",
            "look",
            (step["dropped"], before),
            title="pairs were dropped as too long",
            meaning="The model never sees them. A higher limit keeps more of them, where the"
            " model's context and the memory allow it.",
            setting=f"data.{limit[1]}={2 * int(limit[2])}" if limit else "",
        )
    if not token_counts:
        return
    written = EvaluateSection().max_new_tokens
    longer = [target for _, target in token_counts if target > written]
    if longer:
        yield _finding(
            "answers_cut",
            "look",
            (len(longer), len(token_counts)),
            title=f"answers are longer than {written} tokens",
            meaning="There generation stops unless the recipe says otherwise, so they cannot be"
            " given whole.",
            setting=f"evaluate.max_new_tokens={_up(_percentile(longer, 0.99))}",
        )
    pairs = sorted(source + target for source, target in token_counts)
    usual = _up(_percentile(pairs, 0.99))
    n_longer = sum(pair > usual for pair in pairs)
    is_limited = bool(step and step["enabled"])
    if n_longer and pairs[-1] > 2 * usual and not is_limited:
        yield _finding(
            "long_pairs",
            "look",
            (n_longer, len(pairs)),
            title=f"pairs are longer than {usual:,} tokens, up to {pairs[-1]:,}",
            meaning="The longest pair sets the memory that training needs, and each batch with"
            " one is padded to it.",
            setting=f"data.max_pair_tokens={usual}",
        )


def _licence(card: dict[str, Any]) -> Iterator[Finding]:
    if not card["licence"]["name"]:
        yield _finding(
            "licence",
            "look",
            (card["rows_out"], card["rows_out"]),
            title="examples come from a source whose licence is not known",
            meaning="Whether the adapter may be passed on depends on it: ask where the rows come"
            " from.",
        )


def _percentile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def _up(n_tokens: int) -> int:
    """The next multiple of 64."""
    return -(-n_tokens // _TOKENS) * _TOKENS
