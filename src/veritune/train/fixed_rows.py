"""Packed rows padded to a few fixed token budgets, so that a step has few shapes.

Row k holds the examples of adapter k.  Every token names its example; padding names none that
a real token belongs to, and carries no label.  Labels lie in a list of fixed length.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from veritune.model.load import Kind
from veritune.train.batches import EncodedPair

BUDGETS = (512, 1024, 2048, 4096, 8192)
"""Tokens of a row; longer rows are padded to multiples of the last."""


@dataclass(frozen=True)
class Shape:
    """What a recorded step is made for.

    Attributes:
        passes: forward and backward passes before the update.
        rows: adapters; source, target: tokens of a row (target 0 for decoder models).
        labels: places for supervised tokens in a row.
    """

    passes: int
    rows: int
    source: int
    target: int
    labels: int

    @property
    def is_usual(self) -> bool:
        """Whether its rows keep to the budgets."""
        return max(self.source, self.target) <= BUDGETS[-1]


@dataclass(frozen=True)
class FixedRows:
    """The passes of one optimizer step.

    Attributes:
        tensors: all with leading dimensions ``[passes, rows]``: ``input_ids [.., S]``,
            ``position_ids`` and ``source_examples`` likewise, ``decoder_input_ids [.., T]`` and
            ``target_examples`` of encoder-decoders, ``label_places [.., L]`` (in the row that is
            supervised), ``labels`` and ``importance`` likewise.
    """

    shape: Shape
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class RowMaker:
    """Lays examples out.

    Attributes:
        wide: precision of the importance.
    """

    kind: Kind
    pad_id: int
    decoder_start_id: int
    wide: torch.dtype = torch.float32

    def make(
        self, rows: Sequence[Sequence[Sequence[EncodedPair]]], importance: Sequence[float]
    ) -> FixedRows:
        """Lay out one step.

        Args:
            rows: by adapter, by pass, the examples; adapters may have fewer passes.
            importance: of each adapter's supervised tokens.
        """
        passes = max(1, *(len(groups) for groups in rows))
        cells = [
            [row[number] if number < len(row) else [] for row in rows] for number in range(passes)
        ]
        every = [pairs for cell in cells for pairs in cell]
        is_pair = self.kind == "seq2seq"
        source = budget(
            max(sum(len(p.source_ids) if is_pair else p.n_tokens for p in cell) for cell in every)
        )
        target = budget(max(sum(len(p.target_ids) for p in c) for c in every)) if is_pair else 0
        n_labels = max(sum(len(p.target_ids) for p in c) for c in every)
        whole = target or source
        labels = whole // 2 if n_labels <= whole // 2 else whole
        shape = Shape(passes, len(rows), source, target, labels)
        made = [
            [
                self._row(pairs, shape, factor)
                for pairs, factor in zip(cell, importance, strict=True)
            ]
            for cell in cells
        ]
        names = made[0][0]
        return FixedRows(
            shape,
            {n: torch.stack([torch.stack([r[n] for r in cell]) for cell in made]) for n in names},
        )

    def _row(
        self, pairs: Sequence[EncodedPair], shape: Shape, importance: float
    ) -> dict[str, torch.Tensor]:
        n = len(pairs)
        if self.kind == "causal":
            ids = [t for p in pairs for t in (*p.source_ids, *p.target_ids)]
            lengths = [p.n_tokens for p in pairs]
            places = [
                end - len(p.target_ids) - 1 + i
                for p, end in zip(pairs, itertools.accumulate(lengths), strict=True)
                for i in range(len(p.target_ids))
            ]
        else:
            ids = [t for p in pairs for t in p.source_ids]
            lengths = [len(p.source_ids) for p in pairs]
            places = list(range(sum(len(p.target_ids) for p in pairs)))
        row = {
            "input_ids": _filled(ids, shape.source, self.pad_id),
            "source_examples": _filled(_numbers(lengths), shape.source, n, torch.int32),
            "label_places": _filled(places, shape.labels, 0),
            "labels": _filled([t for p in pairs for t in p.target_ids], shape.labels, 0),
            "importance": _filled(
                [importance] * sum(len(p.target_ids) for p in pairs), shape.labels, 0, self.wide
            ),
        }
        if self.kind == "causal":
            positions = [i for length in lengths for i in range(length)]
            row["position_ids"] = _filled(positions, shape.source, 0)
            return row
        decoder = [t for p in pairs for t in (self.decoder_start_id, *p.target_ids[:-1])]
        row["decoder_input_ids"] = _filled(decoder, shape.target, self.pad_id)
        # Padding joins the last example: it must see some source, and nothing sees it.
        numbers = _numbers([len(p.target_ids) for p in pairs])
        row["target_examples"] = _filled(numbers, shape.target, max(0, n - 1), torch.int32)
        return row


def budget(needed: int) -> int:
    """The smallest budget that holds so many tokens."""
    for budget in BUDGETS:
        if needed <= budget:
            return budget
    last = BUDGETS[-1]
    return -(-needed // last) * last


def _numbers(lengths: Sequence[int]) -> list[int]:
    return [number for number, length in enumerate(lengths) for _ in range(length)]


def _filled(
    values: Sequence[float], length: int, filler: int, dtype: torch.dtype = torch.long
) -> torch.Tensor:
    out = torch.full((length,), filler, dtype=dtype)
    out[: len(values)] = torch.tensor(values, dtype=dtype)
    return out
