"""The memory of rows under way: one slot each, in buffers that never move while they are used.

Rows under way always fill the first slots; when one leaves, the last moves into its place, so
every step works on as many rows as are alive and on no padding but that of the longest.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

_WINDOW = 32
"""Tokens by which the window grows, or an eighth of it where that is more."""


class Slots:
    """What a step reads about its rows.

    Attributes:
        tokens: ``[slots]``, the last token of each row, which the next step reads.
        positions: ``[slots]``, its place in the row, from 0.
        systems: ``[slots]``, number of the row's adapter from 1, or 0 for the base.
        source_lengths: ``[slots]``, tokens of the source, for encoder-decoder models.
    """

    def __init__(self, n_slots: int, device: torch.device) -> None:
        self.device = device
        self.tokens, self.positions, self.systems, self.source_lengths = (
            torch.zeros(n_slots, dtype=torch.long, device=device) for _ in range(4)
        )

    def fill(
        self, tokens: list[int], positions: list[int], systems: list[int], sources: list[int]
    ) -> None:
        """Describe the rows under way, from slot 0 on; the other slots get harmless values."""
        free = len(self.tokens) - len(tokens)
        rows = zip(
            (self.tokens, self.positions, self.systems, self.source_lengths),
            (tokens, positions, systems, sources),
            (0, 0, 0, 1),
            strict=True,
        )
        for buffer, values, other in rows:
            buffer.copy_(torch.tensor([*values, *[other] * free]))


class KeyValues:
    """Keys and values, ``[2, slots, kv_heads, window, d]`` a layer.

    On CUDA the window is the whole capacity, so that nothing ever moves.  On a CPU it is little
    more than the longest row: its products read only what is contiguous and would copy the
    filled part of anything longer, each time.
    """

    def __init__(
        self, layers: int, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._kv_heads, self._width = kv_heads, width
        self._like = torch.empty(0, dtype=dtype, device=device)
        self.n_slots, self.capacity, self.window = 0, 0, 0
        self.layers = [self._like.new_zeros(2, 0, kv_heads, 0, width) for _ in range(layers)]

    def reserve(self, n_slots: int, capacity: int) -> None:
        """Allow for so many slots and tokens, and keep what is there."""
        self.capacity = capacity
        window = min(self.window, capacity) if self._grows else capacity
        self._resize(n_slots, window)

    def hold(self, span: int) -> None:
        """Make the window hold ``span`` tokens at least."""
        if span > self.window:
            self._resize(self.n_slots, self._rounded(span))

    def reach(self, span: int) -> int:
        """Fit the window to rows of at most ``span`` tokens; returns how many a step reads."""
        if not self._grows:
            return span
        wanted = self._rounded(span)
        if span > self.window or self.window > 2 * wanted:
            self._resize(self.n_slots, wanted)
        return self.window

    def move(self, source: int, target: int, length: int) -> None:
        """Copy one slot's first ``length`` tokens to another slot."""
        for data in self.layers:
            data[:, target, :, :length] = data[:, source, :, :length]

    def places(self, positions: torch.Tensor) -> torch.Tensor:
        """Where one token of each of the first slots goes, for ``write_next``."""
        n, device = len(positions), positions.device
        first = torch.arange(self._kv_heads, device=device) * self.window
        of_row = torch.arange(n, device=device) * (self._kv_heads * self.window) + positions
        values = self.n_slots * self._kv_heads * self.window
        keys = of_row.unsqueeze(1) + first
        return torch.cat((keys, keys + values), 1).flatten()

    def write_next(self, layer: int, places: torch.Tensor, new: torch.Tensor) -> None:
        """Put one token's keys and values of each row, ``[n, 2·kv_heads·d]``, in their places."""
        flat = self.layers[layer].view(-1, self._width)
        flat.index_copy_(0, places, new.reshape(-1, self._width))

    def write_starts(
        self, layer: int, slots: list[int], lengths: list[int], new: torch.Tensor
    ) -> None:
        """Put the first tokens' keys and values, ``[Σ lengths, 2·kv_heads·d]``, into slots."""
        given = new.view(-1, 2, self._kv_heads, self._width).permute(1, 2, 0, 3)
        start = 0
        for slot, length in zip(slots, lengths, strict=True):
            part = given[:, :, start : start + length]
            self.layers[layer][:, slot, :, :length].copy_(part)
            start += length

    def read(self, layer: int, n: int, span: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``[n · kv_heads, span, d]`` of the first slots and tokens."""
        both = self.layers[layer].flatten(1, 2)[:, : n * self._kv_heads, :span]
        return both[0], both[1]

    @property
    def _grows(self) -> bool:
        return self._like.device.type == "cpu"

    def _rounded(self, span: int) -> int:
        step = max(_WINDOW, span // 8)
        return min(self.capacity, -(-span // step) * step)

    def _resize(self, n_slots: int, window: int) -> None:
        if (n_slots, window) == (self.n_slots, self.window):
            return
        n, w = min(self.n_slots, n_slots), min(self.window, window)
        for number, old in enumerate(self.layers):
            # Zeros, since a masked NaN is still a NaN.
            new = old.new_zeros(2, n_slots, self._kv_heads, window, self._width)
            new[:, :n, :, :w] = old[:, :n, :, :w]
            self.layers[number] = new
        self.n_slots, self.window = n_slots, window


def attend_next(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention of one new token per row.

    The query heads that share a key head stand as so many queries of it: nothing is repeated.

    Args:
        query: ``[n, kv_heads, group, d]``; keys and values: ``[n · kv_heads, span, d]``.
        mask: fp32, added to the scores, broadcast to ``[n, kv_heads, group, span]``.

    Returns:
        ``[n, kv_heads · group · d]``.
    """
    n, kv_heads, group, width = query.shape
    span = keys.shape[1]
    if query.device.type == "cpu":
        # With so few queries the plain products beat the fused kernel by half.
        flat = query.reshape(n * kv_heads, group, width)
        scores = torch.bmm(flat, keys.transpose(1, 2)).view(n, kv_heads, group, span)
        weights = scores.to(torch.float32).mul_(scale).add_(mask).softmax(-1).to(query.dtype)
        mixed = torch.bmm(weights.view(n * kv_heads, group, span), values)
        return mixed.view(n, -1)
    mixed = F.scaled_dot_product_attention(
        query,
        keys.view(n, kv_heads, span, width),
        values.view(n, kv_heads, span, width),
        attn_mask=mask.to(query.dtype),
        scale=scale,
    )
    return mixed.reshape(n, -1)


def attend_within(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: list[int],
    *,
    scale: float,
    bias: torch.Tensor | None = None,
    causal: bool,
) -> torch.Tensor:
    """Attention of rows that stand one after the other, each within itself.

    Args:
        query: ``[Σ lengths, heads, d]``; keys and values: ``[Σ lengths, kv_heads, d]``.
        bias: ``[1, heads, n, n]`` of the longest row, or None.

    Returns:
        ``[Σ lengths, heads · d]``.
    """
    total, heads, width = query.shape
    kv_heads = keys.shape[1]
    out = query.new_empty(total, heads * width)
    start = 0
    for length in lengths:
        here = slice(start, start + length)
        q = query[here].transpose(0, 1).view(kv_heads, heads // kv_heads, length, width)
        k, v = (
            tensor[here].transpose(0, 1).unsqueeze(1).expand(-1, heads // kv_heads, -1, -1)
            for tensor in (keys, values)
        )
        given = (
            None if bias is None else bias[0, :, :length, :length].view(q.shape[:2] + (length,) * 2)
        )
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=given, is_causal=causal, scale=scale
        )
        out[here] = mixed.flatten(0, 1).transpose(0, 1).reshape(length, -1)
        start += length
    return out


def normed(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """``w · x / sqrt(mean(x²) + eps)``, statistics in fp32, as transformers rounds it."""
    wide = x.to(torch.float32)
    inverse = torch.linalg.vecdot(wide, wide).unsqueeze(-1)
    inverse = inverse.div_(x.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    y: torch.Tensor = (wide * inverse).to(norm.weight.dtype).mul_(norm.weight)
    return y


def hidden_beyond(positions: torch.Tensor, span: int) -> torch.Tensor:
    """``[n, 1, 1, span]`` in fp32: 0 up to each row's position, minus infinity after it."""
    beyond = torch.arange(span, device=positions.device) > positions.unsqueeze(1)
    mask = torch.zeros(beyond.shape, device=positions.device)
    return mask.masked_fill_(beyond, float("-inf"))[:, None, None]
