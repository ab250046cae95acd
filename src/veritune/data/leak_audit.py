"""How near each validation and test row is to what is trained on, for any split.

Clusters are found with MinHash, which misses a pair now and then, and a split may come from
elsewhere.  Here nothing is estimated: every held-out row meets every training row with which
it shares a shingle, and the nearest one is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from veritune.config import DuplicatesSection
from veritune.data.compared import LONG_SIZE, LONG_WORDS, SHORT_SIZE, Compared
from veritune.data.near_duplicates import Shingles
from veritune.data.raw_rows import RawRow
from veritune.progress import Reporter, Silent
from veritune.rows import SPLITS, Split

Array = np.ndarray[Any, Any]

SIDES = ("question", "answer")
_N_WORST = 10
_LEVELS = (0.7, 0.9)
_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Nearest:
    """The training row nearest to one held-out row.

    Attributes:
        held_out, train: places of the two rows; ``train`` is -1 where no row shares anything.
        side: which text was compared, ``question`` or ``answer``.
        similarity: Jaccard similarity of the shingle sets; 1 where the canonical forms are equal.
        exact: the texts themselves are equal.
    """

    held_out: int
    train: int
    side: str
    similarity: float
    exact: bool


def audit(
    rows: Sequence[RawRow],
    texts: Compared,
    splits: Sequence[Split | None],
    names: Sequence[str],
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """The content of the card's ``leak_audit``: shares by split and side, and the worst pairs.

    Args:
        texts: the rows' canonical forms.
        splits: of each row; rows without one take no part.
        names: of each row, as the page shows them.
    """
    train = [place for place, split in enumerate(splits) if split == "train"]
    result: dict[str, Any] = {"shingle_words": [SHORT_SIZE, LONG_SIZE], "long_words": LONG_WORDS}
    found: list[Nearest] = []
    for split in SPLITS[1:]:
        held_out = [place for place, name in enumerate(splits) if name == split]
        shares: dict[str, Any] = {"n_rows": len(held_out)}
        for side in SIDES:
            nearest = nearest_rows(rows, texts, train, held_out, side=side, reporter=reporter)
            shares[side] = _shares(nearest)
            found += nearest
        result[split] = shares
    worst = sorted(
        (pair for pair in found if pair.train >= 0),
        key=lambda pair: (-pair.exact, -pair.similarity, pair.held_out, pair.side),
    )
    result["worst"] = [
        {
            "split": splits[pair.held_out],
            "side": pair.side,
            "similarity": round(pair.similarity, 4),
            "exact": pair.exact,
            "held_out": _shown(rows[pair.held_out], names[pair.held_out]),
            "train": _shown(rows[pair.train], names[pair.train]),
        }
        for pair in _one_of_each(worst)[:_N_WORST]
    ]
    return result


def nearest_rows(
    rows: Sequence[RawRow],
    texts: Compared,
    train: Sequence[int],
    held_out: Sequence[int],
    *,
    side: str,
    reporter: Reporter | None = None,
) -> list[Nearest]:
    """For each held-out row the nearest training row by question or by answer.

    Where several are equally near, one whose text is exactly equal comes first, then the first.
    """
    canonical = texts.questions if side == "question" else texts.answers
    index = _Index(_shingles(texts, side), train)
    exact: dict[tuple[str, ...], int] = {}
    same: dict[str, int] = {}
    for place in train:
        exact.setdefault(_text(rows[place], side), place)
        same.setdefault(canonical[place].key, place)
    result = []
    with (reporter or Silent()).task(f"leak audit by {side}", len(held_out)) as task:
        for place in held_out:
            task.advance()
            twin = exact.get(_text(rows[place], side))
            equal = twin if twin is not None else same.get(canonical[place].key)
            if equal is not None:
                result.append(Nearest(place, equal, side, 1.0, twin is not None))
                continue
            other, similarity = index.nearest(place)
            result.append(Nearest(place, other, side, similarity, False))
    return result


def leaking_rows(
    texts: Compared,
    splits: Sequence[Split | None],
    cluster_ids: Sequence[str],
    settings: DuplicatesSection,
) -> set[int]:
    """Training rows that are in a held-out row's cluster, or themselves near-duplicates of it."""
    train = [place for place, split in enumerate(splits) if split == "train"]
    held_out = [place for place, split in enumerate(splits) if split in SPLITS[1:]]
    clusters = {cluster_ids[place] for place in held_out}
    found = {place for place in train if cluster_ids[place] in clusters}
    left = [place for place in train if place not in found]
    for side, threshold in (
        ("question", settings.instruction_jaccard),
        ("answer", settings.answer_jaccard),
    ):
        index = _Index(_shingles(texts, side), left)
        for place in held_out:
            found.update(index.similar(place, threshold))
    return found


class _Index:
    """Which training rows hold a shingle, for both shingle sizes."""

    def __init__(self, shingles: Shingles, train: Sequence[int]) -> None:
        self._shingles = shingles
        self._train = np.asarray(train, dtype=np.int64)
        self._lengths = shingles.lengths[self._train]
        self._postings = {size: self._built(size) for size in (SHORT_SIZE, LONG_SIZE)}

    def _built(self, size: int) -> tuple[Array, Array, Array]:
        """(shingle hashes in order, the row that holds each, shingles of each row)."""
        sets = [self._shingles.of(int(place), size) for place in self._train]
        sizes = np.asarray([len(item) for item in sets], dtype=np.int64)
        if not sizes.sum():
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64), sizes
        hashes = np.concatenate(sets)
        owners = np.repeat(np.arange(len(sets)), sizes)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], owners[order], sizes

    def similarities(self, place: int) -> Array:
        """Jaccard similarity of one row to every training row."""
        result = np.zeros(len(self._train))
        is_long = self._shingles.lengths[place] >= LONG_WORDS
        for size in (SHORT_SIZE, LONG_SIZE) if is_long else (SHORT_SIZE,):
            suits = (self._lengths >= LONG_WORDS) == (size == LONG_SIZE)
            if not is_long:
                suits = np.ones(len(self._train), dtype=bool)
            own = self._shingles.of(place, size)
            hashes, owners, sizes = self._postings[size]
            starts = np.searchsorted(hashes, own, "left")
            ends = np.searchsorted(hashes, own, "right")
            parts = [
                owners[start:end] for start, end in zip(starts, ends, strict=True) if start < end
            ]
            if not parts:
                continue
            shared = np.bincount(np.concatenate(parts), minlength=len(self._train))
            jaccard = shared / np.maximum(1, len(own) + sizes - shared)
            result[suits] = jaccard[suits]
        return result

    def nearest(self, place: int) -> tuple[int, float]:
        """(place of the nearest training row or -1, its similarity)."""
        similarities = self.similarities(place)
        best = int(similarities.argmax()) if len(similarities) else -1
        if best < 0 or similarities[best] == 0:
            return -1, 0.0
        return int(self._train[best]), float(similarities[best])

    def similar(self, place: int, threshold: float) -> set[int]:
        """Places of the training rows at least that similar."""
        return {int(item) for item in self._train[self.similarities(place) >= threshold]}


def _shingles(texts: Compared, side: str) -> Shingles:
    return texts.question_shingles if side == "question" else texts.answer_shingles


def _text(row: RawRow, side: str) -> tuple[str, ...]:
    return (row.instruction, row.input) if side == "question" else (row.output,)


def _shares(nearest: Sequence[Nearest]) -> dict[str, Any]:
    """Counts, and shares in percent (None without rows)."""
    counts = {
        **{f"ge_{level:g}": sum(pair.similarity >= level for pair in nearest) for level in _LEVELS},
        "exact": sum(pair.exact for pair in nearest),
    }
    total = len(nearest)
    return {
        **{f"n_{name}": count for name, count in counts.items()},
        **{
            f"percent_{name}": round(100 * count / total, 2) if total else None
            for name, count in counts.items()
        },
        "median": round(float(np.median([pair.similarity for pair in nearest])), 4)
        if total
        else None,
    }


def _one_of_each(pairs: Sequence[Nearest]) -> list[Nearest]:
    """A pair of rows once, even if its questions and its answers are both alike."""
    seen: set[tuple[int, int]] = set()
    result = []
    for pair in pairs:
        if (pair.held_out, pair.train) not in seen:
            seen.add((pair.held_out, pair.train))
            result.append(pair)
    return result


def _shown(row: RawRow, name: str) -> dict[str, str]:
    return {
        "example_id": name,
        "source": row.source,
        **{
            field: text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
            for field, text in (
                ("instruction", row.instruction),
                ("input", row.input),
                ("reference", row.output),
            )
        },
    }
