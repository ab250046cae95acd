"""The training loop: AdamW on the adapter, validation, early stop, checkpoints.

State lives in ``TrainState``; batches depend only on seed and epoch; so a run that is
killed and resumed takes the very steps it would have taken.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from veritune.config import TrainSection
from veritune.errors import EnvironmentFault, Interrupted, OutOfMemory, RunDirectoryError
from veritune.progress import Reporter
from veritune.train.batches import EncodedPair, Layout, epoch_batches, in_order
from veritune.train.checkpoint import (
    TrainState,
    checkpoints,
    load_best,
    load_checkpoint,
    save_best,
    save_checkpoint,
    trainable_tensors,
)
from veritune.train.flops import WeightCounts
from veritune.train.log import TrainLog
from veritune.train.loss import loss_sum, mean_loss
from veritune.train.schedule import rate_factor, step_count

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
        eval_every = section.eval_steps or per_epoch
        save_every = section.checkpoint_steps or eval_every
        optimizer = torch.optim.AdamW(
            list(trainable_tensors(self.model).values()),
            lr=section.learning_rate,
            weight_decay=section.weight_decay,
        )
        state, resumed = self._restore(optimizer)
        log = TrainLog(self.log_path, resume_step=state.step if resumed else None)
        if not resumed:
            torch.manual_seed(self.seed)
            log.write("start", step=0, n_steps=n_steps, n_train=len(self.train), seed=self.seed)
        resumed_after = state.step
        validation = [
            self.layout.batch(pairs) for pairs in in_order(self.validation, section.batch_size)
        ]
        self.model.train()
        started = time.perf_counter() - state.elapsed_seconds
        with self.reporter.task("training", n_steps) as task, _signals() as stop:
            task.advance(state.step)
            for step, pairs in self._steps(state.step, n_steps, per_epoch):
                if state.stopped_early:
                    break
                with self.watch():
                    step_started = time.perf_counter()
                    facts = self._step(optimizer, state, step, n_steps, pairs)
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
                    self._evaluate(validation, state, log, epoch)
                    state.elapsed_seconds = time.perf_counter() - started
                if self.resumable and (
                    stop.requested or last or state.step % save_every == 0 or state.stopped_early
                ):
                    save_checkpoint(self.folder, self.model, optimizer, state)
                    log.write("checkpoint", step=state.step)
                if stop.requested and not last:
                    saved = "the checkpoint is saved" if self.resumable else "nothing is saved"
                    raise Interrupted(
                        f"stopped after step {state.step} of {n_steps}; {saved}",
                        next_step="run the same command again to go on"
                        + (" from there" if self.resumable else ", from the first step"),
                    )
        # Its moments are twice the trained weights; loading the best ones needs the room.
        del optimizer
        summary = self._finish(state, log, n_steps, per_epoch)
        return {**summary, "resumed_after_step": resumed_after}

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

    def _steps(
        self, done: int, n_steps: int, per_epoch: int
    ) -> Iterator[tuple[int, list[list[EncodedPair]]]]:
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
                    yield step, batches[start : start + accumulation]
                step += 1

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        state: TrainState,
        step: int,
        n_steps: int,
        groups: list[list[EncodedPair]],
    ) -> dict[str, float]:
        section = self.section
        rate = section.learning_rate * rate_factor(section, step, n_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        n_supervised = sum(len(pair.target_ids) for pairs in groups for pair in pairs)
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for pairs in groups:
            batch = self.layout.batch(pairs)
            loss = loss_sum(self.model, batch.to(self.device))
            (loss / n_supervised).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            source, target = self.layout.row_tokens(pairs)
            state.padded_source_tokens += source
            state.padded_tokens += source + target
            state.real_tokens += batch.n_real_tokens
            state.target_tokens += sum(len(pair.target_ids) for pair in pairs)
            state.examples += len(pairs)
        parameters = optimizer.param_groups[0]["params"]
        norm = torch.nn.utils.clip_grad_norm_(parameters, section.max_grad_norm or math.inf)
        summed = float(total)
        if not (math.isfinite(summed) and math.isfinite(float(norm))):
            raise EnvironmentFault(
                f"training diverged at step {step + 1}",
                received=f"loss {summed / n_supervised:g}, gradient norm {float(norm):g},"
                f" learning_rate {section.learning_rate:g}",
                accepted="a finite loss and gradient",
                next_step="lower train.learning_rate, add train.warmup_steps,"
                " or set model.dtype to float32; in another output_dir if a checkpoint was saved",
            )
        optimizer.step()
        state.step = step + 1
        state.loss_sum += summed
        state.loss_tokens += n_supervised
        state.total_loss += summed
        state.total_tokens += n_supervised
        return {
            "loss": summed / n_supervised,
            "learning_rate": rate,
            "grad_norm": float(norm),
            "tokens": float(state.real_tokens),
        }

    def _evaluate(
        self, validation: list[Any], state: TrainState, log: TrainLog, epoch: float
    ) -> None:
        if not validation or state.loss_tokens == 0:
            return
        loss = mean_loss(self.model, validation, self.device)
        better = state.best_loss is None or loss < state.best_loss
        training_loss = state.loss_sum / state.loss_tokens
        state.loss_sum, state.loss_tokens = 0.0, 0
        if better:
            state.best_loss, state.best_step, state.evaluations_without_gain = loss, state.step, 0
            if self.section.keep == "best":
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
        if self.track is not None:
            self.track(values, step)

    def _out_of_memory(self, error: BaseException) -> OutOfMemory:
        section = self.section
        longest = max(pair.n_tokens for pair in self.train)
        half = max(1, section.batch_size // 2)
        accumulation = section.accumulation_steps * math.ceil(section.batch_size / half)
        return OutOfMemory(
            "memory ran out while training",
            received=f"batch_size {section.batch_size}, longest pair {longest} tokens,"
            f" padding {section.padding} on {self.device.type}: {str(error).splitlines()[0]}",
            accepted="less work per forward pass",
            next_step=f"--set train.batch_size={half}"
            f" --set train.accumulation_steps={accumulation} (the same optimizer step),"
            f" or --set data.max_pair_tokens={max(2, longest // 2)}",
        )


class _Stop:
    requested = False


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM ask for a stop after the step; a second Ctrl-C stops at once."""
    stop = _Stop()

    def ask(number: int, frame: object) -> None:
        del number, frame
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:
        # Not the main thread: whoever owns it handles signals.
        pass
    try:
        yield stop
    finally:
        for kept, handler in previous.items():
            signal.signal(kept, handler)
