"""Counted dropout in plain tensor arithmetic: for a GPU, and for steps that are replayed.

As in ``counted_dropout`` a mask is a function of (seed, step, site, place) and of nothing else.
Here it is computed where the tensors are, and the step is read from a tensor, so a recorded step
draws fresh masks at every replay.  The hash is Wellons' lowbias32 (public domain, 2018): every
input bit flips every output bit with probability close to a half.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_BITS = 24
_GOLDEN = -1640531527  # 2**32 over the golden ratio, as a signed number
_SEED_STRIDE = 32


@dataclass
class Signals:
    """What recorded layers read at every replay.

    Attributes:
        seeds: ``[K]`` int64, of each adapter.
        counters: ``[K]`` int64, of each adapter, its forward passes so far.
    """

    seeds: torch.Tensor
    counters: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, adapters: int) -> Signals:
        """Zeros, to be written to."""
        zeros = torch.zeros(2, adapters, dtype=torch.long, device=device)
        return cls(zeros[0].clone(), zeros[1].clone())

    def keys(self, site: torch.Tensor) -> torch.Tensor:
        """``[K, 2]`` int32: names of the masks of one site, one of each adapter."""
        key = _mix(_low(self.seeds))
        for part in (_low(self.seeds >> _SEED_STRIDE), _low(self.counters), site):
            key = _mix((key + part) * _ODD + 1)
        return torch.stack([key, _mix(key + _GOLDEN)], -1)


_ODD = 747796405


def keep_mask(keys: torch.Tensor, rows: int, columns: int, p: torch.Tensor) -> torch.Tensor:
    """Which entries stay.

    A place is (row, column) and not a number in the whole, so a longer row draws the same
    mask for the tokens it shares with a shorter one.

    Args:
        keys: ``[K, 2]`` int32.
        p: ``[K]`` float, each adapter's probability to drop.

    Returns:
        ``[K, rows, columns]`` bool; kept with probability ``keeping(p)``.
    """
    device = keys.device
    row = _mix(torch.arange(rows, dtype=torch.int32, device=device) + keys[:, :1])
    column = torch.arange(columns, dtype=torch.int32, device=device) * _GOLDEN
    each = _mix((row ^ keys[:, 1:]).unsqueeze(-1) + column)
    limit = torch.round(p * 2**_BITS).to(torch.int32)[:, None, None]
    kept: torch.Tensor = (each & (2**_BITS - 1)) >= limit
    return kept


def keeping(p: torch.Tensor) -> torch.Tensor:
    """The probability to keep, exactly as ``keep_mask`` keeps, fp32."""
    keep: torch.Tensor = 1 - torch.round(p * 2**_BITS) / 2**_BITS
    return keep


def _low(wide: torch.Tensor) -> torch.Tensor:
    """The low 32 bits as int32."""
    low = wide & 0xFFFFFFFF
    return torch.where(low >= 2**31, low - 2**32, low).to(torch.int32)


def _mix(x: torch.Tensor) -> torch.Tensor:
    # Shifts of int32 carry the sign along; the masks take it away.
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * -2073254261  # 0x846CA68B
    return x ^ ((x >> 16) & 0xFFFF)
