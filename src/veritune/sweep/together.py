"""Trains configurations to given steps: as many together as there are slots, the rest after.

Those that validate after equally many steps share rounds; between two rounds one that has reached
its target leaves its slot to the next.  After each round, and about once a minute, everything
needed to go on is on disk.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from veritune.errors import OutOfMemory
from veritune.progress import Reporter, Task
from veritune.sweep.bench import Bench
from veritune.sweep.halving import round_steps
from veritune.sweep.results import Progress, Result
from veritune.sweep.space import configuration
from veritune.train.schedule import step_count
from veritune.train.trainers import Configuration, Counted, Trainers

_SAVE_EVERY_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.5


@dataclass
class Together:
    """Trains the configurations of one sweep.

    Attributes:
        slots: how many train together; halved where memory runs out.
    """

    bench: Bench
    progress: Progress
    reporter: Reporter
    task: Task
    slots: int
    _order: int = field(default=0, init=False)
    _steps: int = field(default=0, init=False)
    _started: float = field(default_factory=time.monotonic, init=False)

    def train(self, results: Sequence[Result], targets: Mapping[int, int]) -> None:
        """Train each to its target step, its end or its divergence, with a validation there.

        Raises:
            OutOfMemory: not even one at a time fits.
        """
        groups: dict[tuple[bool, int], list[Result]] = {}
        for result in results:
            if not result.is_over and _validated(result) < targets[result.number]:
                own = self.configuration(result)
                every = round_steps(own.train, len(self.bench.train))
                groups.setdefault((self.bench.shares(own), every), []).append(result)
        for (joint, every), group in sorted(groups.items(), key=lambda item: item[0]):
            self._train_group(group, targets, joint=joint, every=every)

    def configuration(self, result: Result) -> Configuration:
        """What a result trains."""
        return configuration(self.bench.recipe, result.number, result.settings)

    def _train_group(
        self, group: list[Result], targets: Mapping[int, int], *, joint: bool, every: int
    ) -> None:
        while True:
            trainers = self.bench.trainers(joint=joint, slots=self.slots)
            work = _Group(self, trainers, targets, every)
            try:
                work.run(group)
                return
            except (torch.OutOfMemoryError, MemoryError) as error:
                work.abandon()
                if not joint or self.slots == 1:
                    raise OutOfMemory(
                        "memory ran out with one configuration at a time",
                        received=str(error).splitlines()[0] if str(error) else "",
                        accepted="less work per forward pass",
                        next_step="lower train.batch_size or data.max_pair_tokens in another"
                        " output_dir",
                    ) from error
                self.slots = max(1, self.slots // 2)
                self.progress.slots[str(group[0].generation)] = self.slots
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.reporter.say(f"  memory ran out; going on with {self.slots} at a time")

    def next_place(self) -> int:
        """The place of a configuration in the order in which slots were taken."""
        self._order = 1 + max([self._order, *(row.order for row in self.progress.results)])
        return self._order

    def count(self, steps: int) -> None:
        """Show so many more optimizer steps of configurations."""
        self._steps += steps
        rate = self._steps / max(1e-9, time.monotonic() - self._started)
        over = sum(row.is_over for row in self.progress.results)
        found = [row.evaluations for row in self.progress.results if row.evaluations]
        best = min((row["validation_loss"] for rows in found for row in rows), default=None)
        known = "" if best is None else f" best loss {best:.3f},"
        total = len(self.progress.results)
        self.task.advance(steps, f"{over} of {total} configurations done,{known} {_pace(rate)}")


def _pace(rate: float) -> str:
    """Steps a second, or seconds a step where those say more."""
    return f"{rate:,.1f} steps/s" if rate >= 1 or rate == 0 else f"{1 / rate:,.1f} s/step"


class _Group:
    """Configurations that share rounds, at work in the slots of one trainer."""

    def __init__(
        self, owner: Together, trainers: Trainers, targets: Mapping[int, int], every: int
    ) -> None:
        self._owner, self._trainers, self._targets, self._every = owner, trainers, targets, every
        self._progress = owner.progress
        self._active: dict[int, Result] = {}
        self._saved = time.monotonic()
        self._pace = 0.0

    def run(self, group: Sequence[Result]) -> None:
        """Train all to their targets."""
        waiting = sorted(group, key=lambda row: (row.slot is None, row.order, row.number))
        while waiting or self._active:
            self._fill(waiting)
            self._round()
            for slot, result in list(self._active.items()):
                if result.is_over or _validated(result) >= self._targets[result.number]:
                    self._leave(slot, result)
            self._progress.save()
            self._saved = time.monotonic()

    def abandon(self) -> None:
        """Free the slots; what is on disk counts."""
        for slot, result in list(self._active.items()):
            self._trainers.stop(slot)
            result.slot = None
        self._active = {}

    def _leave(self, slot: int, result: Result) -> None:
        self._trainers.stop(slot)
        del self._active[slot]
        result.slot = None

    def _fill(self, waiting: list[Result]) -> None:
        """Give free slots to those that wait, all at the same place within a round."""
        place = next(iter({self._place(row) for row in self._active.values()} - {None}), None)
        for result in list(waiting):
            free = [n for n in range(self._trainers.slots) if n not in self._active]
            if not free:
                return
            own = self._place(result)
            if place is not None and own is not None and own != place:
                continue
            place = own if place is None else place
            slot = result.slot if result.slot in free else free[0]
            waiting.remove(result)
            self._enter(slot, result)

    def _enter(self, slot: int, result: Result) -> None:
        own = self._owner.configuration(result)
        if result.last is None:
            self._trainers.start(slot, own)
            result.step = 0
        else:
            device = self._owner.bench.placement.device
            self._trainers.restore(slot, own, self._progress.tensors(result.last, device))
        result.slot, result.order = slot, self._owner.next_place()
        result.n_steps, _ = step_count(own.train, len(self._owner.bench.train))
        result.status = "training"
        self._active[slot] = result

    def _place(self, result: Result) -> int | None:
        """Steps into its round; None for one that has made its last step."""
        return None if result.n_steps and result.step >= result.n_steps else (
            result.step % self._every
        )  # fmt: skip

    def _round(self) -> None:
        """Train to the next validation, validate, and write where everybody stands."""
        started = time.monotonic()
        places = {self._place(row) for row in self._active.values()} - {None}
        left = self._every - max((place for place in places if place is not None), default=0)
        while left > 0:
            busy = [slot for slot in self._active if not self._trainers.done(slot)]
            if not busy:
                break
            now = time.monotonic()
            chunk = min(left, max(1, int(_LOOK_EVERY_SECONDS / self._pace)) if self._pace else 1)
            self._trainers.advance(chunk)
            self._pace = (time.monotonic() - now) / chunk
            left -= chunk
            self._owner.count(self._catch_up())
            if left > 0 and time.monotonic() - self._saved > _SAVE_EVERY_SECONDS:
                for slot, result in self._active.items():
                    self._progress.put(result, self._trainers.state(slot))
                self._progress.save()
                self._saved = time.monotonic()
        losses = self._trainers.validation_loss()
        share = (time.monotonic() - started) / len(self._active)
        for slot, result in self._active.items():
            self._catch_up()
            result.seconds += share
            self._judge(slot, result, losses[slot])

    def _catch_up(self) -> int:
        """Read every slot's position; return how many steps were made since."""
        made = 0
        for slot, result in self._active.items():
            counts = _counts(self._trainers, slot)
            made += counts["global_step"] - result.step
            result.step, result.counts = counts["global_step"], counts
        return made

    def _judge(self, slot: int, result: Result, loss: float) -> None:
        section = self._owner.configuration(result).train
        result.counts = counts = _counts(self._trainers, slot)
        if not math.isfinite(loss):
            result.status = "diverged"
            result.reason = f"loss or gradient was not finite at step {result.step + 1}"
            result.last = result.best = None
            return
        _, per_epoch = step_count(section, len(self._owner.bench.train))
        before = result.kept("best").get("validation_loss", math.inf)
        result.evaluations.append(
            {
                "step": result.step,
                "epoch": round(result.step / per_epoch, 4),
                "training_loss": counts.get("recent_training_loss") or counts["training_loss"],
                "validation_loss": loss,
            }
        )
        self._progress.put(result, self._trainers.state(slot))
        if section.keep == "last" or loss < before:
            result.best = result.last
        without_gain = result.step - result.kept("best")["step"]
        patience = section.early_stopping_patience
        if result.step >= result.n_steps:
            result.status, result.reason = "finished", ""
        elif patience is not None and without_gain >= patience * self._every:
            result.status = "finished"
            result.reason = f"no lower loss for {patience} validations"


def _validated(result: Result) -> int:
    """The step of the last validation."""
    return int(result.evaluations[-1]["step"]) if result.evaluations else 0


def _counts(trainers: Trainers, slot: int) -> dict[str, Any]:
    if not isinstance(trainers, Counted):
        raise TypeError("a sweep needs trainers that count")
    return trainers.counts(slot)
