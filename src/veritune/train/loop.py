"""The training loop: AdamW on the adapter, validation, early stop, checkpoints.

State lives in ``TrainState``; batches depend only on seed and epoch; so a run that is
killed and resumed takes the very steps it would have taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veritune.config import TrainSection
from veritune.errors import EnvironmentFault, Interrupted, OutOfMemory, RunDirectoryError
from veritune.model.adapter import OURS
from veritune.model.recompute import recomputed
from veritune.progress import Reporter
from veritune.train.batches import EncodedPair, Layout, epoch_batches
from veritune.train.captured import CapturedStep
from veritune.train.checkpoint import (
    TrainState,
    checkpoints,
    load_best,
    load_checkpoint,
    save_best,
    save_checkpoint,
    trainable_tensors,
)
from veritune.train.engine import make_step
from veritune.train.flops import WeightCounts
from veritune.train.log import TrainLog
from veritune.train.ranks import Ranks
from veritune.train.schedule import rate_factor, step_count
from veritune.train.signals import stop_signals
from veritune.train.step import Learner, Outcome, Step, Task, make_optimizer, mean_losses

Tracker = Callable[[dict[str, float], int], None]


@dataclass
class Training:
    """One training run, ready to start or to go on.

    Attributes:
        model: a PEFT model on its device; only the adapter is trainable.
        layout: how pairs become batches.
        folder: where checkpoints go.
        log_path: where events go.
        inputs_sha256: hash of everything that decides the result.
        track: called with metrics and step, for experiment trackers.
        watch: entered for the time of every step, to measure what steps need.
        resumable: whether checkpoints are written; without them a killed run starts again.
        ranks: this process among those that train together; only the first writes files.
        recomputes: whether activations are computed again instead of kept.
        fits: settings that would fit where memory runs out, most like the present ones first.
    """

    model: Any
    layout: Layout
    section: TrainSection
    train: Sequence[EncodedPair]
    validation: Sequence[EncodedPair]
    seed: int
    device: torch.device
    folder: Path
    log_path: Path
    inputs_sha256: str
    weights: WeightCounts
    reporter: Reporter
    track: Tracker | None = None
    watch: Callable[[], AbstractContextManager[Any]] = nullcontext
    resumable: bool = True
    ranks: Ranks = field(default_factory=Ranks)
    recomputes: bool = False
    fits: Callable[[], Sequence[str]] | None = None

    def run(self) -> dict[str, Any]:
        """Train to the end; the model then holds the adapter to keep.

        Returns:
            The summary: steps, losses, rates, FLOP counts.

        Raises:
            Interrupted: stopped by a signal, after a checkpoint.
            OutOfMemory: with the sizes met and settings that would need less.
            RunDirectoryError: a checkpoint there belongs to other data or settings.
        """
        try:
            return self._run()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._out_of_memory(error) from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise self._out_of_memory(error) from error
            raise

    def _run(self) -> dict[str, Any]:
        section = self.section
        n_steps, per_epoch = step_count(section, len(self.train))
        parameters = list(trainable_tensors(self.model).values())
        optimizer = make_optimizer(parameters, section, self.device)
        state, resumed = self._restore(optimizer)
        path = self.log_path if self.ranks.is_first else None
        log = TrainLog(path, resume_step=state.step if resumed else None)
        if not resumed:
            torch.manual_seed(self.ranks.seed(self.seed) % 2**64)
            log.write("start", step=0, n_steps=n_steps, n_train=len(self.train), seed=self.seed)
        resumed_after = state.step
        name = OURS if hasattr(self.model, "peft_config") else ""
        step = make_step(
            self.model,
            self.layout,
            {0: Learner(name, parameters, optimizer, section.max_grad_norm)},
            self.device,
            longest=max(pair.n_tokens for pair in [*self.train, *self.validation]),
            n_steps=n_steps,
            reporter=self.reporter,
            ranks=self.ranks,
            engine=section.engine,
            compiles=section.compile,
        )
        keeps_rng = not isinstance(step, CapturedStep)
        try:
            with recomputed(self.model, self.recomputes, keeps_rng=keeps_rng):
                self._train(step, optimizer, state, log)
        finally:
            step.close()
        del step
        # Its moments are twice the trained weights; loading the best ones needs the room.
        del optimizer
        summary = self._finish(state, log, n_steps, per_epoch)
        return {**summary, "resumed_after_step": resumed_after}

    def _train(
        self, step: Step, optimizer: torch.optim.Optimizer, state: TrainState, log: TrainLog
    ) -> None:
        section = self.section
        n_steps, per_epoch = step_count(section, len(self.train))
        eval_every = section.eval_steps or per_epoch
        save_every = section.checkpoint_steps or eval_every
        started = time.perf_counter() - state.elapsed_seconds
        coming = self._tasks(state.step, n_steps, per_epoch)
        following = next(coming, None)
        prepared = step.prepare({0: following.task}) if following else None
        with self.reporter.task("training", n_steps) as task, stop_signals() as stop:
            task.advance(state.step)
            while following is not None and not state.stopped_early:
                with self.watch():
                    step_started = time.perf_counter()
                    facts, following, prepared = self._step(
                        step, state, following, prepared, coming
                    )
                    state.step_seconds += time.perf_counter() - step_started
                state.elapsed_seconds = time.perf_counter() - started
                rate = state.real_tokens / state.elapsed_seconds
                task.advance(1, f"loss {facts['loss']:.3f}, {rate:,.0f} tokens/s")
                epoch = round(state.step / per_epoch, 4)
                if state.step % section.log_steps == 0 or state.step in (1, n_steps):
                    seconds = round(state.elapsed_seconds, 3)
                    log.write("step", step=state.step, epoch=epoch, **facts, seconds=seconds)
                    self._send({f"train/{key}": value for key, value in facts.items()}, state.step)
                last = state.step == n_steps
                if state.step % eval_every == 0 or last:
                    self._evaluate(step, state, log, epoch)
                    state.elapsed_seconds = time.perf_counter() - started
                stops = self.ranks.any(stop.requested, self.device)
                if self.resumable and (
                    stops or last or state.step % save_every == 0 or state.stopped_early
                ):
                    if self.ranks.is_first:
                        save_checkpoint(self.folder, self.model, optimizer, state)
                    log.write("checkpoint", step=state.step)
                if stops and not last:
                    saved = "the checkpoint is saved" if self.resumable else "nothing is saved"
                    raise Interrupted(
                        f"stopped after step {state.step} of {n_steps}; {saved}",
                        next_step="run the same command again to go on"
                        + (" from there" if self.resumable else ", from the first step"),
                    )

    def _restore(self, optimizer: torch.optim.Optimizer) -> tuple[TrainState, bool]:
        found = checkpoints(self.folder)
        if not found:
            return TrainState(inputs_sha256=self.inputs_sha256), False
        state = load_checkpoint(found[-1], self.model, optimizer)
        if state.inputs_sha256 != self.inputs_sha256:
            raise RunDirectoryError(
                "the checkpoint here was made with other data or settings",
                received=f"{found[-1]} (inputs {state.inputs_sha256[:12]},"
                f" now {self.inputs_sha256[:12]})",
                accepted="the data and recipe that training was started with",
                next_step="restore them, or name another output_dir",
            )
        self.reporter.say(f"  resuming training after step {state.step}")
        return state, True

    def _tasks(self, done: int, n_steps: int, per_epoch: int) -> Iterator[_Planned]:
        step = 0
        accumulation = self.section.accumulation_steps
        for epoch in range(math.ceil(n_steps / per_epoch)):
            if step + per_epoch <= done:
                step += per_epoch
                continue
            batches = epoch_batches(
                self.train, self.section.batch_size, seed=self.seed, epoch=epoch
            )
            for start in range(0, len(batches), accumulation):
                if step >= n_steps:
                    return
                if step >= done:
                    yield self._planned(step, n_steps, batches[start : start + accumulation])
                step += 1

    def _step(
        self,
        step: Step,
        state: TrainState,
        planned: _Planned,
        prepared: Any,
        coming: Iterator[_Planned],
    ) -> tuple[dict[str, float], _Planned | None, Any]:
        """Make one step; returns its facts, and the next one laid out."""
        pending = step.launch(prepared)
        # A GPU is at work by now; the next rows are laid out meanwhile.
        following = next(coming, None)
        laid_out = step.prepare({0: following.task}) if following else None
        return self._count(state, planned, pending.read()[0]), following, laid_out

    def _planned(self, step: int, n_steps: int, groups: list[list[EncodedPair]]) -> _Planned:
        task = Task(
            groups=[self.ranks.share(pairs) for pairs in groups],
            supervised=sum(len(pair.target_ids) for pairs in groups for pair in pairs),
            rate=self.section.learning_rate * rate_factor(self.section, step, n_steps),
            seed=self.ranks.seed(self.seed),
            counter=step * self.section.accumulation_steps,
        )
        return _Planned(step, task, groups)

    def _count(self, state: TrainState, planned: _Planned, outcome: Outcome) -> dict[str, float]:
        """Add one step to the sums.

        Raises:
            EnvironmentFault: it was not made, because its loss or gradient is not finite.
        """
        n_supervised = planned.task.supervised
        if not outcome.is_finite:
            raise EnvironmentFault(
                f"training diverged at step {planned.step + 1}",
                received=f"loss {outcome.loss / n_supervised:g}, gradient norm {outcome.norm:g},"
                f" learning_rate {self.section.learning_rate:g}",
                accepted="a finite loss and gradient",
                next_step="lower train.learning_rate, add train.warmup_steps,"
                " or set model.dtype to float32; in another output_dir if a checkpoint was saved",
            )
        for pairs in planned.groups:
            source, target = self.layout.row_tokens(pairs)
            state.padded_source_tokens += source
            state.padded_tokens += source + target
            state.real_tokens += sum(pair.n_tokens for pair in pairs)
            state.target_tokens += sum(len(pair.target_ids) for pair in pairs)
            state.examples += len(pairs)
        state.step = planned.step + 1
        state.loss_sum += outcome.loss
        state.loss_tokens += n_supervised
        state.total_loss += outcome.loss
        state.total_tokens += n_supervised
        return {
            "loss": outcome.loss / n_supervised,
            "learning_rate": planned.task.rate,
            "grad_norm": outcome.norm,
            "tokens": float(state.real_tokens),
        }

    def _evaluate(self, step: Step, state: TrainState, log: TrainLog, epoch: float) -> None:
        if not self.validation or state.loss_tokens == 0:
            return
        sizes = {0: self.section.batch_size}
        loss = mean_losses(step, self.validation, sizes, self.ranks, self.device)[0]
        better = state.best_loss is None or loss < state.best_loss
        training_loss = state.loss_sum / state.loss_tokens
        state.loss_sum, state.loss_tokens = 0.0, 0
        if better:
            state.best_loss, state.best_step, state.evaluations_without_gain = loss, state.step, 0
            if self.section.keep == "best" and self.ranks.is_first:
                save_best(self.folder, self.model)
        else:
            state.evaluations_without_gain += 1
            patience = self.section.early_stopping_patience
            state.stopped_early = patience is not None and (
                state.evaluations_without_gain >= patience
            )
        log.write(
            "evaluation",
            step=state.step,
            epoch=epoch,
            training_loss=training_loss,
            validation_loss=loss,
            best=better,
        )
        self._send({"train/mean_loss": training_loss, "validation/loss": loss}, state.step)

    def _finish(
        self, state: TrainState, log: TrainLog, n_steps: int, per_epoch: int
    ) -> dict[str, Any]:
        kept = self.section.keep == "best" and load_best(self.folder, self.model)
        self.model.eval()
        seconds = max(state.elapsed_seconds, 1e-9)
        is_seq2seq = self.layout.kind == "seq2seq"
        source = state.real_tokens - (state.target_tokens if is_seq2seq else 0)
        summary = {
            "global_step": state.step,
            "n_steps": n_steps,
            "epoch": round(state.step / per_epoch, 4),
            "training_loss": state.total_loss / max(1, state.total_tokens),
            "train_runtime": round(seconds, 3),
            "train_samples_per_second": round(state.examples / seconds, 3),
            "train_steps_per_second": round(state.step / seconds, 4),
            "train_tokens_per_second": round(state.real_tokens / seconds, 2),
            "step_seconds": round(state.step_seconds, 3),
            "total_flos": self.weights.total_flos(state.padded_source_tokens),
            "model_flops": self.weights.model_flops(
                source, state.target_tokens if is_seq2seq else 0
            ),
            "supervised_tokens": state.total_tokens,
            "real_tokens": state.real_tokens,
            "padded_tokens": state.padded_tokens,
            "best_step": state.best_step,
            "best_validation_loss": state.best_loss,
            "kept_step": state.best_step if kept else state.step,
            "stopped_early": state.stopped_early,
        }
        log.write("end", step=state.step, **summary)
        return summary

    def _send(self, values: dict[str, float], step: int) -> None:
        if self.track is not None and self.ranks.is_first:
            self.track(values, step)

    def _out_of_memory(self, error: BaseException) -> OutOfMemory:
        section = self.section
        longest = max(pair.n_tokens for pair in self.train)
        half = max(1, section.batch_size // 2)
        accumulation = section.accumulation_steps * math.ceil(section.batch_size / half)
        less = [
            f"--set train.batch_size={half}"
            f" --set train.accumulation_steps={accumulation} (the same optimizer step)",
            f"--set data.max_pair_tokens={max(2, longest // 2)}",
        ]
        fits = list(self.fits()) if self.fits is not None else []
        return OutOfMemory(
            "memory ran out while training",
            received=f"batch_size {section.batch_size}, longest pair {longest} tokens,"
            f" padding {section.padding} on {self.device.type}: {str(error).splitlines()[0]}",
            accepted="less work per forward pass",
            next_step=", or ".join((*fits, *less)[:2]),
        )


@dataclass(frozen=True)
class _Planned:
    """Optimizer step ``step`` (0-based): this process's task, and the groups of all."""

    step: int
    task: Task
    groups: list[list[EncodedPair]]
