"""Several configurations trained together on one frozen base, in one forward pass.

Each slot's examples lie side by side in one packed row; every layer multiplies the row by the
frozen weights once and by each slot's own adapter where its tokens are.  Sampler, seed, rate,
clip norm and moments are a slot's own, and so are the masks of its dropout, so what a slot
learns is what it would have learned alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veritune.config import LoraSection
from veritune.errors import EnvironmentFault
from veritune.model.adapter import save_named_adapter
from veritune.model.attention import packs, use_packed_attention
from veritune.model.lora import REBASING_INITS, attach_lora, peft_notices
from veritune.progress import Silent
from veritune.train.batches import EncodedPair, Layout, epoch_batches
from veritune.train.engine import make_step
from veritune.train.ranks import Ranks
from veritune.train.schedule import rate_factor, step_count
from veritune.train.step import Learner, Outcome, Step, Task, make_optimizer, mean_losses
from veritune.train.tally import Tally
from veritune.train.trainers import Configuration

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def can_train_jointly(base: Any, sections: Sequence[LoraSection], longest: int) -> bool:
    """Whether adapters like these can share one row of this base model.

    DoRA, trained biases and initialisations that move the base's weights cannot; neither can
    models whose packed rows are not known to be exact.
    """
    return packs(base, longest) and not any(
        section.use_dora or section.bias != "none" or section.init in REBASING_INITS
        for section in sections
    )


@dataclass
class _Slot:
    """One configuration at work.

    Attributes:
        parameters: of its adapter, by PEFT's names with the adapter's own left out.
        step: optimizer steps made.
        tally: of its steps, those of a packed row, which has no padding.
    """

    configuration: Configuration
    learner: Learner
    parameters: dict[str, torch.nn.Parameter]
    n_steps: int
    per_epoch: int
    step: int = 0
    diverged: bool = False
    tally: Tally = field(default_factory=Tally)
    epoch: tuple[int, list[list[EncodedPair]]] = (-1, [])

    def batches(self, pairs: Sequence[EncodedPair]) -> list[list[EncodedPair]]:
        """The forward passes of the next optimizer step."""
        train = self.configuration.train
        number, inside = divmod(self.step, self.per_epoch)
        if self.epoch[0] != number:
            seed = self.configuration.seed
            self.epoch = (
                number,
                epoch_batches(pairs, train.batch_size, seed=seed, epoch=number),
            )
        first = inside * train.accumulation_steps
        return self.epoch[1][first : first + train.accumulation_steps]

    def task(self, groups: list[list[EncodedPair]]) -> Task:
        """What the next optimizer step does."""
        section = self.configuration.train
        return Task(
            groups=groups,
            supervised=_supervised(groups),
            rate=section.learning_rate * rate_factor(section, self.step, self.n_steps),
            seed=self.configuration.seed,
            counter=self.step * section.accumulation_steps,
        )

    def count(self, outcome: Outcome, groups: list[list[EncodedPair]]) -> None:
        """Note a step that was made, or that the slot diverged."""
        if not outcome.is_finite:
            self.diverged = True
            return
        self.step += 1
        real = sum(pair.n_tokens for pairs in groups for pair in pairs)
        self.tally.add(loss=outcome.loss, supervised=_supervised(groups), real=real, padded=real)


def _supervised(groups: list[list[EncodedPair]]) -> int:
    return sum(len(pair.target_ids) for pairs in groups for pair in pairs)


class JointTrainers:
    """Trains up to ``slots`` configurations at once; see ``train.trainers.Trainers``.

    Args:
        base: the frozen model on its device; it stays wrapped by PEFT afterwards.
        layout: of any padding; its rows are packed here.
    """

    def __init__(
        self,
        base: Any,
        layout: Layout,
        train: Sequence[EncodedPair],
        validation: Sequence[EncodedPair],
        *,
        slots: int,
        device: torch.device,
    ) -> None:
        self._base = base
        self._peft: Any = None
        self._layout = Layout(
            layout.kind,
            layout.pad_id,
            layout.decoder_start_id,
            "packed",
            shares_prefix=device.type == "cpu",
        )
        self._train, self._device, self._n = list(train), device, slots
        self._validation = list(validation)
        self._slots: dict[int, _Slot] = {}
        self._step: Step | None = None
        self._made = 0
        self._longest = max(pair.n_tokens for pair in [*self._train, *self._validation])
        use_packed_attention(base, self._longest)

    @property
    def slots(self) -> int:
        """How many configurations train together."""
        return self._n

    def start(self, slot: int, configuration: Configuration) -> None:
        """Put a fresh adapter into a free slot."""
        if slot in self._slots or not 0 <= slot < self._n:
            raise EnvironmentFault(
                "the slot is taken or there is no such slot",
                received=f"slot {slot}",
                accepted=f"a free slot of {self._n}",
                next_step="report this as a bug",
            )
        self._unfuse()
        # Its number keeps PEFT's names apart from those of adapters it had before.
        name = f"slot{self._made}"
        self._made += 1
        self._peft = attach_lora(
            self._base if self._peft is None else self._peft,
            configuration.lora,
            seed=configuration.seed,
            name=name,
        )
        found = {}
        for path, parameter in self._peft.named_parameters():
            if f".{name}." in path:
                parameter.requires_grad_(True)
                found[path.replace(f".{name}.", ".")] = parameter
        section = configuration.train
        parameters = list(found.values())
        optimizer = make_optimizer(parameters, section, self._device)
        learner = Learner(name, parameters, optimizer, section.max_grad_norm)
        n_steps, per_epoch = step_count(section, len(self._train))
        self._slots[slot] = _Slot(configuration, learner, found, n_steps, per_epoch)

    def advance(self, steps: int) -> None:
        """Let every active slot make up to so many optimizer steps of its own schedule."""
        for _ in range(steps):
            active = {n: s for n, s in self._slots.items() if not self.done(n)}
            if not active:
                return
            self._make_step(active)

    def validation_loss(self) -> dict[int, float]:
        """By active slot, the mean per supervised token; infinite where training diverged."""
        sizes = {n: slot.configuration.train.batch_size for n, slot in self._slots.items()}
        means = mean_losses(self._engine(), self._validation, sizes, Ranks(), self._device)
        losses = {}
        for number, slot in self._slots.items():
            mean = means[number]
            losses[number] = math.inf if slot.diverged or not math.isfinite(mean) else mean
            slot.tally.validated()
        return losses

    def done(self, slot: int) -> bool:
        """Whether a slot has made all its steps, or diverged."""
        held = self._slots[slot]
        return held.diverged or held.step >= held.n_steps

    def stop(self, slot: int) -> None:
        """Free a slot."""
        self._unfuse()
        name = self._slots.pop(slot).learner.name
        if len(self._peft.peft_config) > 1:
            with peft_notices():
                self._peft.delete_adapter(name)
        else:
            self._base = self._peft.unload()
            self._peft = None

    def state(self, slot: int) -> dict[str, torch.Tensor]:
        """Adapter, moments and position; masks and samples are functions of the position."""
        held = self._slots[slot]
        tensors = {f"weight/{n}": p.detach().clone() for n, p in held.parameters.items()}
        for name, parameter in held.parameters.items():
            for key, value in held.learner.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value.detach().clone()
        tensors["position"] = torch.tensor([held.step, int(held.diverged)])
        return tensors | held.tally.tensors()

    def restore(
        self, slot: int, configuration: Configuration, state: dict[str, torch.Tensor]
    ) -> None:
        """Put a configuration back into a free slot, where ``state`` left it."""
        self.start(slot, configuration)
        held = self._slots[slot]
        with torch.no_grad():
            for name, parameter in held.parameters.items():
                parameter.copy_(state[f"weight/{name}"])
                if f"step/{name}" in state:
                    held.learner.optimizer.state[parameter] = {
                        key: state[f"{key}/{name}"].clone() for key in _MOMENTS
                    }
        held.step, held.diverged = int(state["position"][0]), bool(state["position"][1])
        held.tally = Tally(state)

    def save(self, slot: int, folder: Path, base_name: str) -> None:
        """Write the adapter as it is now as a PEFT folder."""
        save_named_adapter(self._peft, self._slots[slot].learner.name, folder, base_name=base_name)

    def counts(self, slot: int) -> dict[str, Any]:
        """Tokens and losses so far, under the names of a training summary."""
        held = self._slots[slot]
        return {"global_step": held.step, "n_steps": held.n_steps, **held.tally.counts()}

    def close(self) -> None:
        """Leave the base model as it was."""
        self._unfuse()

    def _make_step(self, active: dict[int, _Slot]) -> None:
        step = self._engine()
        planned = {n: slot.batches(self._train) for n, slot in active.items()}
        outcomes = step.launch(
            step.prepare({n: slot.task(planned[n]) for n, slot in active.items()})
        ).read()
        for n, slot in active.items():
            slot.count(outcomes[n], planned[n])

    def _engine(self) -> Step:
        if self._step is None:
            self._step = make_step(
                self._peft,
                self._layout,
                {n: slot.learner for n, slot in self._slots.items()},
                self._device,
                longest=self._longest,
                n_steps=max(slot.n_steps for slot in self._slots.values()),
                reporter=Silent(),
            )
        return self._step

    def _unfuse(self) -> None:
        if self._step is not None:
            self._step.close()
            self._step = None
