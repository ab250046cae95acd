"""How near answers come to the training answers: copied, or only alike as code is alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

from veritune.compare.token_runs import TokenRuns
from veritune.rows import Example, Prediction
from veritune.score.lexer import lex

NEAR = 0.9
_MAX_TRAINING = 20_000
_SHOWN = 10
_EDGES = tuple(index / 20 for index in range(21))


@dataclass(frozen=True, slots=True)
class Copy:
    """One text against all training answers.

    Attributes:
        similarity: 1 - insertions and deletions / both lengths, to the nearest answer; 0–1.
        nearest: example id of that answer.
        run: tokens of the longest run shared with any training answer.
        run_share: the same as a share of the text's tokens.
        run_source: example id of an answer that holds the run; empty if there is none.
    """

    example_id: str
    similarity: float
    nearest: str
    run: int
    run_share: float
    run_source: str


class TrainingAnswers:
    """The training answers that everything is held against.

    Beyond 20,000 a seeded sample of them; ``n_compared`` says how many.
    """

    def __init__(self, train: Sequence[Example], seed: int) -> None:
        rows = list(train)
        if len(rows) > _MAX_TRAINING:
            chosen = np.random.default_rng([seed, 11]).choice(
                len(rows), size=_MAX_TRAINING, replace=False
            )
            rows = [rows[index] for index in sorted(chosen)]
        self._rows = rows
        self._texts = [row.reference for row in rows]
        self._runs = TokenRuns([lex(text) for text in self._texts])

    @property
    def n_compared(self) -> int:
        """Training answers compared with."""
        return len(self._rows)

    def copies(self, texts: Mapping[str, str]) -> list[Copy]:
        """Hold texts, by example id, against every training answer."""
        names = list(texts)
        if not names or not self._rows:
            return []
        table = process.cdist(
            [texts[name] for name in names],
            self._texts,
            scorer=Indel.normalized_similarity,
            dtype=np.float32,
        )
        found = []
        for name, row in zip(names, table, strict=True):
            best = int(row.argmax())
            tokens = lex(texts[name])
            length, source = self._runs.longest(tokens)
            found.append(
                Copy(
                    example_id=name,
                    similarity=float(row[best]) if texts[name].strip() else 0.0,
                    nearest=self._rows[best].example_id,
                    run=length,
                    run_share=length / len(tokens) if tokens else 0.0,
                    run_source="" if source is None else self._rows[source].example_id,
                )
            )
        return found


def copying(
    train: Sequence[Example],
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    *,
    systems: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """The memorisation tables that need the texts themselves.

    Args:
        train: all training examples.
        examples: those that were asked, of any split.
        systems: whose answers are looked at.

    Returns:
        ``copying``: a row for each system and split, and for the references of test (how near
        unseen true answers are to the training answers anyway); ``most_copied``: the ten
        adapted answers to test questions that are nearest to a training answer.
    """
    answers = TrainingAnswers(train, seed)
    splits = {row.example_id: row.split for row in examples}
    rows, nearest = [], []
    for system in systems:
        for split in ("train", "test"):
            texts = {
                row.example_id: row.code
                for row in predictions
                if row.system == system
                and row.sample_index == 0
                and splits.get(row.example_id) == split
            }
            copies = answers.copies(texts)
            if copies:
                rows.append(_summary(system, split, copies))
            if system == systems[0] and split == "test":
                nearest = copies
    unseen = {row.example_id: row.reference for row in examples if row.split == "test"}
    if references := answers.copies(unseen):
        rows.append(_summary("reference", "test", references))
    sources = {row.example_id: row.source for row in train}
    most = sorted(nearest, key=lambda row: (-row.similarity, -row.run_share, row.example_id))
    return {
        "n_compared": answers.n_compared,
        "copying": rows,
        "most_copied": [
            {**asdict(row), "provenance": sources.get(row.nearest, "")} for row in most[:_SHOWN]
        ],
    }


def _summary(system: str, split: str, copies: Sequence[Copy]) -> dict[str, Any]:
    similarities = np.array([row.similarity for row in copies])
    runs = np.array([row.run for row in copies])
    return {
        "system": system,
        "split": split,
        "n": len(copies),
        "mean_similarity": float(similarities.mean()),
        "share_near": float(100.0 * (similarities >= NEAR).mean()),
        "median_run": float(np.median(runs)),
        "max_run": int(runs.max()),
        "mean_run_share": float(np.mean([row.run_share for row in copies])),
        "histogram": np.histogram(similarities, bins=_EDGES)[0].tolist(),
    }
