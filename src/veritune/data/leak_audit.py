"""How near each validation and test row is to what is trained on, for any split.

A split may come from elsewhere, and one by clusters is to be checked.  Nothing is estimated:
every held-out row meets every training row with which it shares a shingle, and the nearest
one is kept.  Where the pairs would be too many for that, every training row at least ``FLOOR``
similar is still found, by ``similar_pairs``; only the median of what is nearest then comes
from a sample, whose size the audit names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from veritune.config import DuplicatesSection
from veritune.data.compared import LONG_SIZE, LONG_WORDS, SHORT_SIZE, Compared
from veritune.data.findings.masked import cut
from veritune.data.near_duplicates import Shingles
from veritune.data.nearest_texts import PostingIndex, all_similar
from veritune.data.raw_rows import RawRow
from veritune.data.row_keys import row_keys
from veritune.progress import Reporter, Silent
from veritune.rows import SPLITS, Split

Array = np.ndarray[Any, Any]

SIDES = ("question", "answer")
FLOOR = 0.6
_MAX_PAIRS = 20_000_000
_N_SAMPLED = 500
_N_WORST = 10
_LEVELS = (0.7, 0.9)
_SHOWN_CHARACTERS = 2000
_TEXT_OF = {"question": ("instruction", "input"), "answer": ("output",)}


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


class _Found(NamedTuple):
    """The nearest training rows of many held-out ones, as columns.

    Attributes:
        sampled: places in the columns for which the nearest was found however far; the others
            were searched down to ``FLOOR``.
    """

    held_out: Array
    train: Array
    similarity: Array
    exact: Array
    sampled: Array


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
    of_split = np.asarray([split or "" for split in splits])
    train = np.flatnonzero(of_split == "train")
    held_out = np.flatnonzero(np.isin(of_split, SPLITS[1:]))
    found = {
        side: _nearest(rows, texts, train, held_out, side=side, reporter=reporter) for side in SIDES
    }
    result: dict[str, Any] = {"shingle_words": [SHORT_SIZE, LONG_SIZE], "long_words": LONG_WORDS}
    for split in SPLITS[1:]:
        inside = of_split[held_out] == split
        result[split] = {
            "n_rows": int(inside.sum()),
            **{side: _shares(found[side], inside) for side in SIDES},
        }
    result["worst"] = [
        {
            "split": splits[pair.held_out],
            "side": pair.side,
            "similarity": round(pair.similarity, 4),
            "exact": pair.exact,
            "held_out": _shown(rows[pair.held_out], names[pair.held_out]),
            "train": _shown(rows[pair.train], names[pair.train]),
        }
        for pair in _worst(found)
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
    found = _nearest(
        rows,
        texts,
        np.asarray(train, dtype=np.int64),
        np.asarray(held_out, dtype=np.int64),
        side=side,
        reporter=reporter,
    )
    return _as_list(found, side, np.arange(len(found.held_out)))


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
    left = np.asarray([place for place in train if place not in found], dtype=np.int64)
    asked = np.asarray(held_out, dtype=np.int64)
    for side, threshold in (
        ("question", settings.instruction_jaccard),
        ("answer", settings.answer_jaccard),
    ):
        for _, places, _ in all_similar(_shingles(texts, side), left, asked, threshold):
            found.update(places.tolist())
    return found


def _nearest(
    rows: Sequence[RawRow],
    texts: Compared,
    train: Array,
    held_out: Array,
    *,
    side: str,
    reporter: Reporter | None,
) -> _Found:
    """As ``nearest_rows``, in columns."""
    nearest = np.full(len(held_out), -1, dtype=np.int64)
    similarity = np.zeros(len(held_out))
    keys = texts.question_keys if side == "question" else texts.answer_keys
    equal = _equals(keys, train, held_out)
    own = row_keys(rows, _TEXT_OF[side])
    twins = _equals(own, train, held_out)
    exact = twins >= 0
    # Equal as they stand but not in canonical form is possible of no text.
    nearest = np.where(exact, twins, equal)
    similarity[nearest >= 0] = 1
    left = np.flatnonzero(nearest < 0)
    shingles = _shingles(texts, side)
    sampled = np.arange(len(held_out))
    with (reporter or Silent()).task(f"leak audit by {side}", len(held_out)) as task:
        task.advance(len(held_out) - len(left))
        if len(left) * len(train) > _MAX_PAIRS:
            sampled = np.unique(np.linspace(0, len(held_out) - 1, _N_SAMPLED).astype(np.int64))
            for asked, places, values in all_similar(shingles, train, held_out[left], FLOOR):
                _keep_nearest(nearest, similarity, left[asked], places, values)
            task.advance(len(left) - len(sampled))
            left = np.intersect1d(left, sampled)
        index = PostingIndex(shingles, train, held_out[left]) if len(left) else None
        for place in left:
            assert index is not None
            nearest[place], similarity[place] = index.nearest(int(held_out[place]))
            task.advance()
    return _Found(held_out, nearest, similarity, exact, sampled)


def _equals(keys: Array, train: Array, held_out: Array) -> Array:
    """The first training row with the key of each held-out one, or -1."""
    if not len(train):
        return np.full(len(held_out), -1, dtype=np.int64)
    known, first = np.unique(keys[train], return_index=True)
    at = np.minimum(np.searchsorted(known, keys[held_out]), len(known) - 1)
    return np.where(known[at] == keys[held_out], train[first[at]], -1)


def _keep_nearest(
    nearest: Array, similarity: Array, asked: Array, places: Array, values: Array
) -> None:
    """Put in what is nearer than what was known; of equally near rows the first."""
    order = np.lexsort((places, -values, asked))
    asked, places, values = asked[order], places[order], values[order]
    first = np.concatenate([[True], asked[1:] != asked[:-1]]) if len(asked) else asked > 0
    asked, places, values = asked[first], places[first], values[first]
    better = (values > similarity[asked]) | (
        (values == similarity[asked]) & (places < nearest[asked])
    )
    nearest[asked[better]], similarity[asked[better]] = places[better], values[better]


def _shingles(texts: Compared, side: str) -> Shingles:
    return texts.question_shingles if side == "question" else texts.answer_shingles


def _shares(found: _Found, inside: Array) -> dict[str, Any]:
    """Counts, and shares in percent (None without rows)."""
    similarity = found.similarity[inside]
    counts = {
        **{f"ge_{level:g}": int((similarity >= level).sum()) for level in _LEVELS},
        "exact": int(found.exact[inside].sum()),
    }
    total = len(similarity)
    sampled = found.similarity[found.sampled[inside[found.sampled]]]
    result = {
        **{f"n_{name}": count for name, count in counts.items()},
        **{
            f"percent_{name}": round(100 * count / total, 2) if total else None
            for name, count in counts.items()
        },
        "median": round(float(np.median(sampled)), 4) if len(sampled) else None,
    }
    return result if len(sampled) == total else {**result, "n_of_median": len(sampled)}


def _worst(found: dict[str, _Found]) -> list[Nearest]:
    """The nearest pairs of all, each pair of rows once."""
    pairs = []
    for side, of_side in found.items():
        order = np.lexsort((of_side.held_out, -of_side.similarity, ~of_side.exact))
        order = order[of_side.train[order] >= 0][: 2 * _N_WORST]
        pairs += _as_list(of_side, side, order)
    pairs.sort(key=lambda pair: (-pair.exact, -pair.similarity, pair.held_out, pair.side))
    return _one_of_each(pairs)[:_N_WORST]


def _as_list(found: _Found, side: str, places: Array) -> list[Nearest]:
    return [
        Nearest(held_out, train, side, similarity, exact)
        for held_out, train, similarity, exact in zip(
            *(column[places].tolist() for column in found[:4]), strict=True
        )
    ]


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
        "instruction": cut(row.instruction, _SHOWN_CHARACTERS),
        "input": cut(row.input, _SHOWN_CHARACTERS),
        "reference": cut(row.output, _SHOWN_CHARACTERS),
    }
