"""Dropout drawn from a counter: which entries fall out is a function of (seed, step, site).

Nothing but these numbers decides a mask, so an adapter that trains beside others draws the
very masks it would draw alone, and a resumed run those it would have drawn.  Philox (Salmon
et al., 2011) is the counter-based generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Draw:
    """Names one mask.

    Attributes:
        seed: of the adapter.
        step: optimizer step, times forward passes per step, plus the pass within it.
        site: number of the place in the model.
    """

    seed: int
    step: int
    site: int

    def generator(self) -> np.random.Generator:
        """The mask's own stream."""
        # A list of Python's integers becomes fp64 where one is beyond 2**63, and loses digits.
        key = np.array([self.seed % 2**64, self.site], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, self.step, 0]))


def dropped_positions(n: int, p: float, draw: Draw) -> torch.Tensor:
    """Which of ``n`` entries drop, each independently with probability ``p``.

    The gaps between dropped entries are geometric, so only the dropped ones cost anything:
    at p=0.01 a hundredth of a full mask.

    Returns:
        Ascending positions, int64, shape ``[n_dropped]``.
    """
    if n == 0 or p <= 0:
        return torch.empty(0, dtype=torch.long)
    random = draw.generator()
    found: list[np.ndarray] = []
    last = -1
    while last < n:
        left = n - max(last, 0)
        count = int(left * p + 4 * np.sqrt(left * p) + 8)
        positions = last + np.cumsum(random.geometric(p, size=count))
        found.append(positions)
        last = int(positions[-1])
    positions = np.concatenate(found)
    return torch.from_numpy(positions[: int(np.searchsorted(positions, n))])


_LEVELS = 2**16


def keep_mask(n: int, p: float, draw: Draw) -> tuple[torch.Tensor, float]:
    """A dense mask for larger ``p``, from 16 random bits an entry.

    Returns:
        ``[n]`` bool, true where kept, and the probability of keeping, which is 1 - p to
        the next 1/65536; dividing by it keeps the mean exact.
    """
    threshold, keep = threshold_of(p)
    raw = draw.generator().bit_generator.random_raw(-(-n // 4))
    bits = np.asarray(raw, dtype=np.uint64).view(np.uint16)[:n]
    return torch.from_numpy(bits >= threshold), keep


def threshold_of(p: float) -> tuple[int, float]:
    """Below which of 65536 levels an entry drops, and the probability of keeping it."""
    threshold = round(p * _LEVELS)
    return threshold, 1 - threshold / _LEVELS
