"""Configurations that cannot share a row, behind the same protocol: one at a time.

What ``train.loop`` does for one adapter, in steps that can be interrupted.  Some adapters move
the base's weights or train its biases, so every configuration gets a base of its own.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veritune.errors import EnvironmentFault
from veritune.model.adapter import save_adapter
from veritune.model.fuse import Fused, fuse
from veritune.model.lora import REBASING_INITS, attach_lora
from veritune.train.batches import EncodedPair, Layout, epoch_batches, in_order
from veritune.train.checkpoint import trainable_tensors
from veritune.train.loss import loss_sum, mean_loss
from veritune.train.schedule import rate_factor, step_count
from veritune.train.tally import Tally
from veritune.train.trainers import Configuration

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_GENERATOR = "generator"


@dataclass
class _Held:
    """The configuration at work."""

    configuration: Configuration
    model: Any
    fused: Fused | None
    optimizer: torch.optim.AdamW
    n_steps: int
    per_epoch: int
    initial: tempfile.TemporaryDirectory[str] | None
    generator: torch.Tensor
    step: int = 0
    diverged: bool = False
    tally: Tally = field(default_factory=Tally)
    epoch: tuple[int, list[list[EncodedPair]]] = (-1, [])


class OneByOneTrainers:
    """Trains one configuration at a time; see ``train.trainers.Trainers``.

    Args:
        load: gives the frozen base model on its device, whole and unchanged.
    """

    slots = 1

    def __init__(
        self,
        load: Callable[[], Any],
        layout: Layout,
        train: Sequence[EncodedPair],
        validation: Sequence[EncodedPair],
        *,
        device: torch.device,
    ) -> None:
        self._load, self._layout, self._device = load, layout, device
        self._train, self._validation = list(train), list(validation)
        self._held: _Held | None = None

    def start(self, slot: int, configuration: Configuration) -> None:
        """Put a fresh adapter on a fresh base."""
        if self._held is not None or slot != 0:
            raise EnvironmentFault(
                "the slot is taken or there is no such slot",
                received=f"slot {slot}",
                accepted="slot 0, when it is free",
                next_step="report this as a bug",
            )
        model = attach_lora(self._load(), configuration.lora, seed=configuration.seed)
        initial = None
        if configuration.lora.init in REBASING_INITS:
            initial = tempfile.TemporaryDirectory(prefix="veritune-")
            save_adapter(model, Path(initial.name) / "adapter", base_name="")
        train = configuration.train
        optimizer = torch.optim.AdamW(
            list(trainable_tensors(model).values()),
            lr=train.learning_rate,
            weight_decay=train.weight_decay,
            fused=self._device.type == "cpu",
        )
        n_steps, per_epoch = step_count(train, len(self._train))
        with torch.random.fork_rng():
            torch.manual_seed(configuration.seed)
            generator = self._generator()
        fused = fuse(model) if self._device.type == "cpu" else None
        self._held = _Held(
            configuration, model, fused, optimizer, n_steps, per_epoch, initial, generator
        )

    def advance(self, steps: int) -> None:
        """Make up to so many optimizer steps."""
        held = self._now()
        held.model.train()
        with torch.random.fork_rng():
            self._set_generator(held.generator)
            for _ in range(steps):
                if self.done(0):
                    break
                self._step(held)
            held.generator = self._generator()

    def validation_loss(self) -> dict[int, float]:
        """The mean per supervised token; infinite where training diverged."""
        held = self._now()
        size = held.configuration.train.batch_size
        batches = [self._layout.batch(pairs) for pairs in in_order(self._validation, size)]
        mean = mean_loss(held.model, batches, self._device)
        held.tally.validated()
        return {0: math.inf if held.diverged or not math.isfinite(mean) else mean}

    def done(self, slot: int) -> bool:
        """Whether all steps are made, or training diverged."""
        del slot
        held = self._now()
        return held.diverged or held.step >= held.n_steps

    def stop(self, slot: int) -> None:
        """Free the slot, and the base with it."""
        del slot
        held, self._held = self._now(), None
        if held.initial is not None:
            held.initial.cleanup()

    def state(self, slot: int) -> dict[str, torch.Tensor]:
        """Trained tensors, moments, generators and position."""
        del slot
        held = self._now()
        tensors = {}
        for name, parameter in trainable_tensors(held.model).items():
            tensors[f"weight/{name}"] = parameter.detach().clone()
            for key, value in held.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value.detach().clone()
        tensors["position"] = torch.tensor([held.step, int(held.diverged)])
        tensors[_GENERATOR] = held.generator
        return tensors | held.tally.tensors()

    def restore(
        self, slot: int, configuration: Configuration, state: dict[str, torch.Tensor]
    ) -> None:
        """Put a configuration back where ``state`` left it."""
        self.start(slot, configuration)
        held = self._now()
        with torch.no_grad():
            for name, parameter in trainable_tensors(held.model).items():
                parameter.copy_(state[f"weight/{name}"])
                if f"step/{name}" in state:
                    # AdamW keeps its step count on the CPU.
                    held.optimizer.state[parameter] = {
                        key: state[f"{key}/{name}"].to(
                            "cpu" if key == "step" else parameter.device, copy=True
                        )
                        for key in _MOMENTS
                    }
        held.step, held.diverged = int(state["position"][0]), bool(state["position"][1])
        held.generator = state[_GENERATOR].cpu()
        held.tally = Tally(state)

    def save(self, slot: int, folder: Path, base_name: str) -> None:
        """Write the adapter as it is now as a PEFT folder."""
        del slot
        held = self._now()
        initial = Path(held.initial.name) / "adapter" if held.initial else None
        if held.fused is not None:
            held.fused.restore()
        save_adapter(held.model, folder, base_name=base_name, initial=initial)
        held.fused = fuse(held.model) if self._device.type == "cpu" else None

    def counts(self, slot: int) -> dict[str, Any]:
        """Tokens and losses so far, under the names of a training summary."""
        del slot
        held = self._now()
        return {"global_step": held.step, "n_steps": held.n_steps, **held.tally.counts()}

    def close(self) -> None:
        """Let the base go."""
        if self._held is not None:
            self.stop(0)

    def _step(self, held: _Held) -> None:
        section, seed = held.configuration.train, held.configuration.seed
        epoch, inside = divmod(held.step, held.per_epoch)
        if held.epoch[0] != epoch:
            batches = epoch_batches(self._train, section.batch_size, seed=seed, epoch=epoch)
            held.epoch = (epoch, batches)
        first = inside * section.accumulation_steps
        groups = held.epoch[1][first : first + section.accumulation_steps]
        supervised = sum(len(pair.target_ids) for pairs in groups for pair in pairs)
        rate = section.learning_rate * rate_factor(section, held.step, held.n_steps)
        for group in held.optimizer.param_groups:
            group["lr"] = rate
        held.optimizer.zero_grad(set_to_none=True)
        total, padded = 0.0, 0
        for number, pairs in enumerate(groups):
            if held.fused is not None:
                held.fused.situation.seeds[0] = seed
                counter = held.step * section.accumulation_steps + number
                held.fused.situation.counters[0] = counter
            loss = loss_sum(held.model, self._layout.batch(pairs).to(self._device))
            (loss / supervised).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            padded += sum(self._layout.row_tokens(pairs))
        parameters = held.optimizer.param_groups[0]["params"]
        norm = torch.nn.utils.clip_grad_norm_(parameters, section.max_grad_norm or math.inf)
        if not (math.isfinite(total) and math.isfinite(float(norm))):
            held.diverged = True
            return
        held.optimizer.step()
        held.step += 1
        held.tally.add(
            loss=total,
            supervised=supervised,
            real=sum(pair.n_tokens for pairs in groups for pair in pairs),
            padded=padded,
        )

    def _now(self) -> _Held:
        if self._held is None:
            raise EnvironmentFault("the slot is free", next_step="report this as a bug")
        return self._held

    def _generator(self) -> torch.Tensor:
        if self._device.type == "cuda":
            return torch.cuda.get_rng_state(self._device)
        return torch.get_rng_state()

    def _set_generator(self, state: torch.Tensor) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state, self._device)
        else:
            torch.set_rng_state(state)
