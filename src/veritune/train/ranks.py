"""The processes that train one adapter together, each with its share of every batch.

Gradients are sums over tokens divided once by the tokens of the whole batch, so adding up the
processes' gradients gives the gradient of one process with the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from veritune.train.batches import EncodedPair

_SEED_STRIDE = 2**32
"""Between the ranks' dropout seeds: two ranks never draw one mask."""


def process_count(wanted: int | str) -> int:
    """``train.processes`` as a number."""
    return max(1, torch.cuda.device_count()) if wanted == "auto" else int(wanted)


@dataclass(frozen=True)
class Ranks:
    """This process among ``size``; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def share(self, pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
        """This process's examples of a batch."""
        return list(pairs[self.rank :: self.size])

    def seed(self, seed: int) -> int:
        """The seed of this process's dropout."""
        return seed + self.rank * _SEED_STRIDE

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.sum_(flat)
        for gradient, part in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def sum_(self, values: torch.Tensor) -> None:
        """Replace values by their sum over the processes."""
        if self.size > 1:
            torch.distributed.all_reduce(values)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is up in any process."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(value)
        return bool(value > 0)
