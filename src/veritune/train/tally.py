"""What a report prints of a training, added up step by step and kept through a kill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_PREFIX = "sum/"


class Tally:
    """Sums of losses and tokens since the start, and since the last validation."""

    def __init__(self, state: Mapping[str, torch.Tensor] | None = None) -> None:
        self._sums: dict[str, float] = {
            name.removeprefix(_PREFIX): float(value)
            for name, value in (state or {}).items()
            if name.startswith(_PREFIX)
        }

    def add(self, *, loss: float, supervised: int, real: int, padded: int) -> None:
        """Count one optimizer step.

        Args:
            loss: Σ cross-entropy in nats over the ``supervised`` tokens.
            real, padded: tokens without and with padding.
        """
        for name, amount in (
            ("loss", loss),
            ("supervised_tokens", supervised),
            ("recent_loss", loss),
            ("recent_tokens", supervised),
            ("real_tokens", real),
            ("padded_tokens", padded),
        ):
            self._sums[name] = self._sums.get(name, 0.0) + amount

    def validated(self) -> None:
        """Let the mean loss since the last validation stand, and begin another."""
        tokens, loss = self._sums.pop("recent_tokens", 0.0), self._sums.pop("recent_loss", 0.0)
        if tokens:
            self._sums["recent_training_loss"] = loss / tokens

    def counts(self) -> dict[str, Any]:
        """Under the names of a training summary."""
        sums = self._sums
        return {
            "training_loss": sums.get("loss", 0.0) / max(1.0, sums.get("supervised_tokens", 0.0)),
            "recent_training_loss": sums.get("recent_training_loss"),
            **{
                name: int(sums.get(name, 0))
                for name in ("supervised_tokens", "real_tokens", "padded_tokens")
            },
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """What ``Tally(state)`` goes on from."""
        return {
            f"{_PREFIX}{name}": torch.tensor(amount, dtype=torch.float64)
            for name, amount in self._sums.items()
        }
