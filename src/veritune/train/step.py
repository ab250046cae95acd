"""One optimizer step of one adapter or several: an interface, and how a CPU does it.

``prepare`` lays a step's batches out, ``launch`` sets it going, ``read`` waits for its numbers.
On a CPU all work is done in ``launch``; ``captured.CapturedStep`` returns from it at once, so
that the next step is laid out while this one runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from veritune.config import TrainSection
from veritune.model.fuse import Fused, fuse
from veritune.train.batches import Batch, EncodedPair, Layout, in_order
from veritune.train.loss import token_losses
from veritune.train.ranks import Ranks


@dataclass(frozen=True)
class Learner:
    """One adapter and what moves it.

    Attributes:
        name: PEFT's, or "" where all weights train.
        max_norm: to which its gradient is clipped, or None.
    """

    name: str
    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.AdamW
    max_norm: float | None


@dataclass(frozen=True)
class Task:
    """What one learner does in one optimizer step.

    Attributes:
        groups: the examples of each forward pass.
        supervised: tokens of the whole step that count, of all processes.
        seed, counter: name the masks of the first pass; later passes count on.
    """

    groups: list[list[EncodedPair]]
    supervised: int
    rate: float
    seed: int
    counter: int


@dataclass(frozen=True)
class Outcome:
    """Σ cross-entropy in nats over all processes, and the gradient's norm before clipping.

    Where either is not finite the learner was left as it was.
    """

    loss: float
    norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the step was made."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Pending(Protocol):
    """A step under way."""

    def read(self) -> dict[int, Outcome]:
        """Wait for it."""


class Step(Protocol):
    """Makes optimizer steps."""

    def prepare(self, tasks: Mapping[int, Task]) -> Any:
        """Lay out a step; nothing is computed yet."""

    def launch(self, prepared: Any) -> Pending:
        """Set a step going."""

    def losses(
        self, batches: Mapping[int, Sequence[Sequence[EncodedPair]]]
    ) -> dict[int, tuple[float, int]]:
        """By learner, Σ cross-entropy and supervised tokens of some batches; dropout off."""

    def close(self) -> None:
        """Leave the model as it was."""


def make_optimizer(
    parameters: Sequence[torch.nn.Parameter], section: TrainSection, device: torch.device
) -> torch.optim.AdamW:
    """AdamW; on CUDA with its rate and counters on the device, so that it can be recorded."""
    on_device = device.type == "cuda"
    rate: Any = section.learning_rate
    if on_device:
        rate = torch.tensor(rate, dtype=torch.float32, device=device)
    return torch.optim.AdamW(
        list(parameters),
        lr=rate,
        weight_decay=section.weight_decay,
        fused=True,
        capturable=on_device,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float | torch.Tensor) -> None:
    """Set a learning rate where it lies."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].copy_(torch.as_tensor(rate))
        else:
            group["lr"] = float(rate)


@dataclass(frozen=True)
class _Done:
    outcomes: dict[int, Outcome]

    def read(self) -> dict[int, Outcome]:
        return self.outcomes


@dataclass
class EagerStep:
    """Steps made operation by operation, every learner's examples side by side.

    Attributes:
        fast: whether the model computes by the CPU's fused layers.
    """

    model: Any
    layout: Layout
    learners: Mapping[int, Learner]
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)
    fast: bool = True
    _fused: Fused | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.fast:
            self._fused = fuse(self.model, {n: each.name for n, each in self.learners.items()})

    def prepare(self, tasks: Mapping[int, Task]) -> Mapping[int, Task]:
        """See ``Step``; rows are made one at a time, when they are needed."""
        return tasks

    def launch(self, prepared: Mapping[int, Task]) -> Pending:
        """See ``Step``."""
        self.model.train()
        losses = dict.fromkeys(prepared, 0.0)
        for number in prepared:
            self.learners[number].optimizer.zero_grad(set_to_none=True)
        for passed in range(max(len(task.groups) for task in prepared.values())):
            parts = [
                (n, task.groups[passed])
                for n, task in prepared.items()
                if passed < len(task.groups) and task.groups[passed]
            ]
            if parts:
                self._pass(prepared, passed, parts, losses)
        return _Done({n: self._update(n, task, losses[n]) for n, task in prepared.items()})

    @torch.no_grad()
    def losses(
        self, batches: Mapping[int, Sequence[Sequence[EncodedPair]]]
    ) -> dict[int, tuple[float, int]]:
        """See ``Step``."""
        self.model.eval()
        found = {}
        for number, of_learner in batches.items():
            total, count = 0.0, 0
            for pairs in of_learner:
                batch = self.layout.batch(pairs)
                self._say([(number, pairs)])
                total += float(token_losses(self.model, batch.to(self.device)).sum())
                count += batch.n_supervised
            found[number] = total, count
        self.model.train()
        return found

    def close(self) -> None:
        """See ``Step``."""
        if self._fused is not None:
            self._fused.restore()
            self._fused = None

    def _pass(
        self,
        tasks: Mapping[int, Task],
        passed: int,
        parts: list[tuple[int, list[EncodedPair]]],
        losses: dict[int, float],
    ) -> None:
        batch = self.layout.side_by_side([pairs for _, pairs in parts]).to(self.device)
        counts = [sum(len(pair.target_ids) for pair in pairs) for _, pairs in parts]
        self._say(parts)
        if self._fused is not None:
            for n, _ in parts:
                self._fused.situation.seeds[n] = tasks[n].seed
                self._fused.situation.counters[n] = tasks[n].counter + passed
        factors = [1 / tasks[n].supervised for n, _ in parts]
        each = token_losses(self.model, batch, self._importance(factors, counts, batch))
        each.sum().backward()  # type: ignore[no-untyped-call]
        for (n, _), part in zip(parts, torch.split(each.detach(), counts), strict=True):
            losses[n] += float(part.sum()) * tasks[n].supervised

    def _say(self, parts: Sequence[tuple[int, Sequence[EncodedPair]]]) -> None:
        if self._fused is not None:
            self._fused.situation.ranges = self.layout.ranges(parts)

    def _importance(self, factors: list[float], counts: list[int], batch: Batch) -> torch.Tensor:
        """One over the learner's supervised tokens of the whole step, for each token's loss."""
        first = next(iter(self.learners.values())).parameters[0]
        wide = torch.promote_types(first.dtype, torch.float32)
        shares = [
            torch.full((count,), factor, dtype=wide)
            for factor, count in zip(factors, counts, strict=True)
        ]
        return torch.cat(shares).to(batch.labels.device)

    def _update(self, number: int, task: Task, loss: float) -> Outcome:
        learner = self.learners[number]
        self.ranks.sum_gradients(learner.parameters)
        if self.ranks.size > 1:
            whole = torch.tensor(loss, dtype=torch.float64, device=self.device)
            self.ranks.sum_(whole)
            loss = float(whole)
        norm = torch.nn.utils.clip_grad_norm_(learner.parameters, learner.max_norm or math.inf)
        outcome = Outcome(loss, float(norm))
        if outcome.is_finite:
            set_rate(learner.optimizer, task.rate)
            learner.optimizer.step()
        return outcome


def mean_losses(
    step: Step,
    pairs: Sequence[EncodedPair],
    batch_sizes: Mapping[int, int],
    ranks: Ranks,
    device: torch.device,
) -> dict[int, float]:
    """By learner, the mean cross-entropy per supervised token; the processes share the work."""
    batches = {
        n: list(in_order(pairs, size))[ranks.rank :: ranks.size] for n, size in batch_sizes.items()
    }
    sums = torch.tensor(
        [list(pair) for pair in step.losses(batches).values()], dtype=torch.float64, device=device
    )
    ranks.sum_(sums)
    return {
        n: total / max(1.0, count) for n, (total, count) in zip(batches, sums.tolist(), strict=True)
    }
