"""From encoded pairs to tensors: what is supervised, how rows are padded or packed.

Answers are supervised, end token included; prompts and padding never are.  Padding is
masked by length, never by token id, because many tokenizers pad with their end token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from veritune.errors import DataError
from veritune.model.load import Kind

IGNORED = -100
Padding = Literal["longest_in_batch", "longest_in_data", "max_length", "packed"]


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One training pair as token ids; ``target_ids`` end with the end token."""

    example_id: str
    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Real tokens of the pair."""
        return len(self.source_ids) + len(self.target_ids)


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        inputs: keyword arguments of the model: ``input_ids [B, S]`` and, by kind,
            ``attention_mask [B, S]``, ``position_ids [1, S]`` and ``cu_seq_lens_q [B + 1]``
            (packed), ``decoder_input_ids [B, T]``; packed seq2seq rows carry
            ``source_borders`` and ``target_borders [B + 1]`` instead.
        labels: causal: ``[B, S]``, already shifted (``labels[:, i]`` is what position i
            must predict); seq2seq: ``[B, T]``.  ``IGNORED`` where nothing is supervised.
        n_supervised: labels that count.
        n_real_tokens: source and target tokens without padding.
        n_padded_tokens: source and target tokens with padding.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    n_examples: int
    n_supervised: int
    n_real_tokens: int
    n_padded_tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        if device.type == "cpu":
            return self
        return Batch(
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()},
            self.labels.to(device, non_blocking=True),
            self.n_examples,
            self.n_supervised,
            self.n_real_tokens,
            self.n_padded_tokens,
        )


@dataclass(frozen=True)
class Layout:
    """How pairs become rows.

    Attributes:
        source_length: fixed row length (causal: of the whole pair), or None for the
            longest of the batch.
        target_length: fixed target length for seq2seq, or None likewise.
        shares_prefix: packed causal rows hold the tokens that all prompts of a group begin
            with once: later tokens see the same states, so loss and gradients are the same.
    """

    kind: Kind
    pad_id: int
    decoder_start_id: int
    padding: Padding
    source_length: int | None = None
    target_length: int | None = None
    shares_prefix: bool = False

    def batch(self, pairs: Sequence[EncodedPair]) -> Batch:
        """Lay out some pairs as one forward pass."""
        return self.side_by_side([pairs])

    def side_by_side(self, groups: Sequence[Sequence[EncodedPair]]) -> Batch:
        """Lay out several groups as one forward pass; they share nothing but the row."""
        if self.shares_prefix and self.kind == "causal" and self.padding == "packed":
            return self._prefixed(groups)
        pairs = [pair for group in groups for pair in group]
        if self.padding == "packed":
            is_seq2seq = self.kind == "seq2seq"
            return self._packed_seq2seq(pairs) if is_seq2seq else self._packed(pairs)
        return self._seq2seq(pairs) if self.kind == "seq2seq" else self._causal(pairs)

    def ranges(
        self, parts: Sequence[tuple[int, Sequence[EncodedPair]]]
    ) -> dict[Literal["source", "target"], list[tuple[int, int, int]]]:
        """Where each owner's tokens lie in a packed row: (owner, first, end) by stream.

        Rows that are not packed have one owner and need no borders.
        """

        def cut(length: Callable[[Sequence[EncodedPair]], int]) -> list[tuple[int, int, int]]:
            found, at = [], 0
            for number, pairs in parts:
                end = at + length(pairs)
                found.append((number, at, end))
                at = end
            return found

        if self.padding != "packed":
            return {}
        if self.kind == "causal":
            return {"source": cut(self.row_length)}
        return {
            "source": cut(lambda pairs: sum(len(pair.source_ids) for pair in pairs)),
            "target": cut(lambda pairs: sum(len(pair.target_ids) for pair in pairs)),
        }

    def row_tokens(self, pairs: Sequence[EncodedPair]) -> tuple[int, int]:
        """(source, target) tokens of the batch with padding; causal rows have no target."""
        if self.kind == "seq2seq" and self.padding == "packed":
            return sum(len(p.source_ids) for p in pairs), sum(len(p.target_ids) for p in pairs)
        if self.kind == "seq2seq":
            source = self.source_length or max(len(pair.source_ids) for pair in pairs)
            target = self.target_length or max(len(pair.target_ids) for pair in pairs)
            return source * len(pairs), target * len(pairs)
        if self.padding == "packed":
            return sum(pair.n_tokens for pair in pairs), 0
        return (self.source_length or max(pair.n_tokens for pair in pairs)) * len(pairs), 0

    def _causal(self, pairs: Sequence[EncodedPair]) -> Batch:
        length = self.source_length or max(pair.n_tokens for pair in pairs)
        ids = torch.full((len(pairs), length), self.pad_id, dtype=torch.long)
        labels = torch.full((len(pairs), length), IGNORED, dtype=torch.long)
        mask = torch.zeros((len(pairs), length), dtype=torch.long)
        for row, pair in enumerate(pairs):
            n = pair.n_tokens
            ids[row, :n] = torch.tensor(pair.source_ids + pair.target_ids)
            mask[row, :n] = 1
            labels[row, :n] = torch.tensor(_shifted_labels(pair))
        return _batch({"input_ids": ids, "attention_mask": mask}, labels, pairs, ids.numel())

    def _packed(self, pairs: Sequence[EncodedPair]) -> Batch:
        # Transformers isolates packed examples when positions restart and no mask is given;
        # the borders serve ``model.attention``, which computes nothing across them.
        ids = [token for pair in pairs for token in pair.source_ids + pair.target_ids]
        labels = [label for pair in pairs for label in _shifted_labels(pair)]
        positions = torch.cat([torch.arange(pair.n_tokens) for pair in pairs])
        inputs = {
            "input_ids": torch.tensor([ids]),
            "position_ids": positions.unsqueeze(0),
            "cu_seq_lens_q": _cumulative(pair.n_tokens for pair in pairs),
        }
        return _batch(inputs, torch.tensor([labels]), pairs, len(ids))

    def row_length(self, pairs: Sequence[EncodedPair]) -> int:
        """Tokens that a group of pairs takes in a packed causal row."""
        shared = shared_prefix(pairs) if self.shares_prefix else 0
        return shared + sum(pair.n_tokens - shared for pair in pairs)

    def _prefixed(self, groups: Sequence[Sequence[EncodedPair]]) -> Batch:
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        segments: list[tuple[int, int, int, int]] = []

        def add(tokens: Sequence[int], supervised: Sequence[int], first: int, at: int) -> None:
            segments.append((len(ids), len(ids) + len(tokens), at, at + first))
            ids.extend(tokens)
            labels.extend(supervised)
            positions.extend(range(first, first + len(tokens)))

        for pairs in groups:
            shared, at = shared_prefix(pairs), len(ids)
            if shared:
                add(pairs[0].source_ids[:shared], [IGNORED] * shared, 0, at)
            for pair in pairs:
                tokens = (*pair.source_ids, *pair.target_ids)
                add(tokens[shared:], _shifted_labels(pair)[shared:], shared, at)
        inputs = {
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor([positions]),
            "cu_seq_lens_q": _cumulative(end - start for start, end, _, _ in segments),
            "segments": torch.tensor(segments),
        }
        everything = [pair for pairs in groups for pair in pairs]
        return _batch(inputs, torch.tensor([labels]), everything, len(ids))

    def _packed_seq2seq(self, pairs: Sequence[EncodedPair]) -> Batch:
        # ``model.attention`` keeps every example to itself; T5's positions are distances.
        source = [token for pair in pairs for token in pair.source_ids]
        decoder = [
            token for pair in pairs for token in (self.decoder_start_id, *pair.target_ids[:-1])
        ]
        labels = torch.tensor([[token for pair in pairs for token in pair.target_ids]])
        inputs = {
            "input_ids": torch.tensor([source]),
            "decoder_input_ids": torch.tensor([decoder]),
            "source_borders": _cumulative(len(pair.source_ids) for pair in pairs),
            "target_borders": _cumulative(len(pair.target_ids) for pair in pairs),
        }
        return _batch(inputs, labels, pairs, len(source) + len(decoder))

    def _seq2seq(self, pairs: Sequence[EncodedPair]) -> Batch:
        n_source = self.source_length or max(len(pair.source_ids) for pair in pairs)
        n_target = self.target_length or max(len(pair.target_ids) for pair in pairs)
        source = torch.full((len(pairs), n_source), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(pairs), n_source), dtype=torch.long)
        labels = torch.full((len(pairs), n_target), IGNORED, dtype=torch.long)
        decoder = torch.full((len(pairs), n_target), self.pad_id, dtype=torch.long)
        for row, pair in enumerate(pairs):
            n, m = len(pair.source_ids), len(pair.target_ids)
            source[row, :n] = torch.tensor(pair.source_ids)
            mask[row, :n] = 1
            labels[row, :m] = torch.tensor(pair.target_ids)
            decoder[row, :m] = torch.tensor((self.decoder_start_id, *pair.target_ids[:-1]))
        inputs = {"input_ids": source, "attention_mask": mask, "decoder_input_ids": decoder}
        return _batch(inputs, labels, pairs, source.numel() + labels.numel())


def make_layout(
    kind: Kind,
    padding: Padding,
    pairs: Sequence[EncodedPair],
    *,
    pad_id: int,
    decoder_start_id: int,
    limits: tuple[int | None, int | None] = (None, None),
) -> Layout:
    """The layout for a data set; ``limits`` are the recipe's (source, target) maxima.

    For causal models the source limit is that of the whole pair.
    """
    source_length = target_length = None
    if padding in ("longest_in_data", "max_length"):
        sources = [len(p.source_ids) if kind == "seq2seq" else p.n_tokens for p in pairs]
        source_length = max(sources)
        target_length = max(len(p.target_ids) for p in pairs) if kind == "seq2seq" else None
    if padding == "max_length":
        source_length = limits[0] or source_length
        target_length = (limits[1] or target_length) if kind == "seq2seq" else None
    return Layout(kind, pad_id, decoder_start_id, padding, source_length, target_length)


def epoch_batches(
    pairs: Sequence[EncodedPair], batch_size: int, *, seed: int, epoch: int
) -> list[list[EncodedPair]]:
    """One epoch's batches: a permutation that depends only on the seed and the epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs))
    return [
        [pairs[index] for index in order[start : start + batch_size]]
        for start in range(0, len(pairs), batch_size)
    ]


def in_order(pairs: Sequence[EncodedPair], batch_size: int) -> Iterator[list[EncodedPair]]:
    """Batches of similar length, for evaluation, where order does not matter."""
    ordered = sorted(pairs, key=lambda pair: (pair.n_tokens, pair.example_id))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def audit_supervision(pairs: Sequence[EncodedPair], end_id: int) -> None:
    """Refuse data in which an example teaches nothing or never ends.

    Raises:
        DataError: an example has no supervised token, or its answer lacks the end token.
    """
    if not pairs:
        raise DataError(
            "there is nothing to train on",
            received="0 training pairs",
            accepted="at least one",
            next_step="`veritune plan` shows where the rows went",
        )
    for pair in pairs:
        if len(pair.target_ids) < 2 or pair.target_ids[-1] != end_id:
            raise DataError(
                "an example has no supervised answer token",
                received=f"example {pair.example_id} with answer tokens {pair.target_ids[:8]}",
                accepted="an answer of at least one token, then the end token",
                next_step="drop it, or switch data.clean.drop_empty on",
            )
        if not pair.source_ids:
            raise DataError(
                "an example has an empty prompt",
                received=f"example {pair.example_id}",
                accepted="a prompt of at least one token",
                next_step="check model.prompt.template and data.columns",
            )


_WORTH_SHARING = 4
"""Tokens; a shorter prefix costs more to look up than to compute."""


def shared_prefix(pairs: Sequence[EncodedPair]) -> int:
    """Tokens that all prompts begin with, the last token of each left out, or 0."""
    if len(pairs) < 2:
        return 0
    first, *others = (pair.source_ids for pair in pairs)
    length = min(len(first), *(len(other) for other in others)) - 1
    for other in others:
        while length and first[:length] != other[:length]:
            length -= 1
    return length if length >= _WORTH_SHARING else 0


def _cumulative(lengths: Iterable[int]) -> torch.Tensor:
    return torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)


def _shifted_labels(pair: EncodedPair) -> list[int]:
    return [IGNORED] * (len(pair.source_ids) - 1) + [*pair.target_ids, IGNORED]


def _batch(
    inputs: dict[str, torch.Tensor],
    labels: torch.Tensor,
    pairs: Sequence[EncodedPair],
    n_padded: int,
) -> Batch:
    return Batch(
        inputs=inputs,
        labels=labels,
        n_examples=len(pairs),
        n_supervised=int((labels != IGNORED).sum()),
        n_real_tokens=sum(pair.n_tokens for pair in pairs),
        n_padded_tokens=n_padded,
    )
