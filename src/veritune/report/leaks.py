"""How near the held-out rows are to training, and which repeat a published task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from veritune.data.differences import side_by_side
from veritune.report.wording import (
    count,
    fixed,
    is_number,
    mapping,
    one_line,
    percent,
    plural,
    rows_of,
    visible,
)

_LEVELS = ("ge_0.7", "ge_0.9", "exact")
_N_PAIRS = 10


@dataclass(frozen=True)
class LeakPair:
    """A held-out row beside its nearest training row, with what differs marked.

    Attributes:
        texts: (what, question, answer) of each.
    """

    title: str
    texts: list[tuple[str, Markup, Markup]]


@dataclass(frozen=True)
class Leaks:
    """The leak audit: (rows, by, shares from 0.7, from 0.9, equal), and the nearest pairs."""

    shares: list[tuple[str, str, str, str, str]]
    pairs: list[LeakPair]
    contamination: str


def make_leaks(card: dict[str, Any]) -> Leaks | None:
    """None where the card has no audit."""
    audit = mapping(card.get("leak_audit"))
    shares = []
    for split in ("validation", "test"):
        of_split = mapping(audit.get(split))
        for side in ("question", "answer"):
            values = mapping(of_split.get(side))
            if is_number(of_split.get("n_rows")) and of_split["n_rows"] and values:
                levels = [percent(values.get(f"percent_{level}")) for level in _LEVELS]
                shares.append((split, side, levels[0], levels[1], levels[2]))
    if not shares:
        return None
    pairs = [
        LeakPair(
            title=f"{fixed(pair.get('similarity'), 2)} by {one_line(pair.get('side', ''))}:"
            f" {one_line(mapping(pair.get('held_out')).get('instruction', ''), 70)}",
            texts=_texts(
                one_line(pair.get("split", "")),
                mapping(pair.get("held_out")),
                mapping(pair.get("train")),
            ),
        )
        for pair in rows_of(audit.get("worst"))[:_N_PAIRS]
    ]
    return Leaks(shares, pairs, _contamination(mapping(card.get("contamination"))))


def _texts(
    split: str, held_out: dict[str, Any], train: dict[str, Any]
) -> list[tuple[str, Markup, Markup]]:
    questions = side_by_side(_question(held_out), _question(train), visible)
    answers = side_by_side(
        str(held_out.get("reference", "")), str(train.get("reference", "")), visible
    )
    return [
        (f"{name}, {one_line(row.get('source') or row.get('example_id') or '')}", *texts)
        for name, row, texts in zip(
            (split, "train"),
            (held_out, train),
            zip(questions, answers, strict=True),
            strict=True,
        )
    ]


def _question(row: dict[str, Any]) -> str:
    return "\n\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))


def _contamination(found: dict[str, Any]) -> str:
    against = found.get("against")
    if not isinstance(against, list) or not against:
        return ""
    names = ", ".join(map(one_line, against))
    if not found.get("n_rows"):
        return f"No row repeats a task of {names}."
    return (
        f"{plural(found['n_rows'], 'row repeats', 'rows repeat')} tasks of {names};"
        f" {count(found.get('n_dropped'))} were taken out (data/card.html lists them)."
    )
