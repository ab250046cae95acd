"""The optimizer step of a CUDA device: recorded once per shape, replayed with one launch.

A small model's step is some thousands of kernels, each shorter than its launch.  Forward and
backward passes, clipping, AdamW and zeroing are recorded together and replayed as one.  What
differs between steps (tokens, rates, seeds, counters) is written into buffers before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from veritune.model import fixed_attention
from veritune.model.chunked_loss import ChunkedCrossEntropy
from veritune.model.fuse_fixed import fuse_fixed
from veritune.progress import Reporter
from veritune.train.batches import EncodedPair
from veritune.train.fixed_rows import FixedRows, RowMaker, Shape
from veritune.train.ranks import Ranks
from veritune.train.record import Recorder
from veritune.train.step import Learner, Outcome, Pending, Task, set_rate

MAX_RECORDINGS = 24
"""Shapes that are recorded; each keeps its activations' place in the pool."""
_CLIP_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class Prepared:
    """A step laid out: its rows, and what each learner does with them (``[K]`` each)."""

    rows: FixedRows
    control: dict[str, torch.Tensor]
    numbers: list[int]
    supervised: list[int]


@dataclass
class _Recording:
    """Work of one shape.

    Attributes:
        buffers: what it reads; result: ``[2, K]``, losses and norms.
        run: replays it, or does it operation by operation.
    """

    buffers: dict[str, torch.Tensor]
    result: torch.Tensor
    run: Callable[[], None]


@dataclass
class CapturedStep:
    """Steps over rows of fixed budgets; row i belongs to the i-th learner.

    Attributes:
        recorder: None makes every step operation by operation, on any device.
        compiles: whether each layer of the model is compiled first.
        flex: whether attention is ``flex_attention``'s.
    """

    model: Any
    maker: RowMaker
    learners: Mapping[int, Learner]
    device: torch.device
    recorder: Recorder | None
    reporter: Reporter
    ranks: Ranks = field(default_factory=Ranks)
    compiles: bool = False
    flex: bool = False
    _recordings: dict[tuple[bool, Shape], _Recording] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._order = sorted(self.learners)
        self._base = self.model.get_base_model()
        self._was_training = self.model.training
        adapters = {row: self.learners[number].name for row, number in enumerate(self._order)}
        self._fused = fuse_fixed(self.model, adapters, self.device)
        if self.compiles:
            self._compile()
        self._weight = self._base.get_output_embeddings().weight
        self._stops = [torch.zeros((), device=self.device) for _ in self._order]
        for number, stop in zip(self._order, self._stops, strict=True):
            learner = self.learners[number]
            for parameter in learner.parameters:
                # The recorded backward pass adds to gradients where they lie.
                parameter.grad = torch.zeros_like(parameter)
            # Where it is 1 the fused update leaves weights, moments and its counter alone.
            learner.optimizer.found_inf = stop  # type: ignore[attr-defined]

    def prepare(self, tasks: Mapping[int, Task]) -> Prepared:
        """See ``Step``."""
        every = [tasks.get(number) for number in self._order]
        rows = self.maker.make(
            [task.groups if task else [] for task in every],
            [1 / task.supervised if task else 0.0 for task in every],
        )
        passes = torch.arange(rows.shape.passes).unsqueeze(1)
        control = {
            "seeds": torch.tensor([task.seed if task else 0 for task in every]),
            "counters": torch.tensor([task.counter if task else 0 for task in every]) + passes,
            "rates": torch.tensor(
                [task.rate if task else 0.0 for task in every], dtype=self.maker.wide
            ),
            "idle": torch.tensor([0.0 if task else 1.0 for task in every]),
        }
        if self.device.type == "cuda":
            control = {name: t.pin_memory() for name, t in control.items()}
            rows = FixedRows(rows.shape, {n: t.pin_memory() for n, t in rows.tensors.items()})
        return Prepared(rows, control, list(tasks), [t.supervised if t else 0 for t in every])

    def launch(self, prepared: Prepared) -> Pending:
        """See ``Step``."""
        self.model.train()
        result = self._replay(prepared.rows, prepared.control, trains=True)
        return _Reading(result, prepared, self._order)

    def losses(
        self, batches: Mapping[int, Sequence[Sequence[EncodedPair]]]
    ) -> dict[int, tuple[float, int]]:
        """See ``Step``."""
        sums = torch.zeros(len(self._order), dtype=torch.float64, device=self.device)
        counts = [0] * len(self._order)
        self.model.eval()
        for together in itertools.zip_longest(*(batches.get(n, []) for n in self._order)):
            pairs = [list(group or []) for group in together]
            rows = self.maker.make([[group] for group in pairs], [1.0] * len(pairs))
            sums += self._replay(rows, {}, trains=False)[0]
            for index, group in enumerate(pairs):
                counts[index] += sum(len(pair.target_ids) for pair in group)
        self.model.train()
        values = sums.tolist()
        return {n: (values[i], counts[i]) for i, n in enumerate(self._order) if n in batches}

    def close(self) -> None:
        """See ``Step``."""
        self._recordings.clear()
        self._fused.restore()
        for layer in self._layers() if self.compiles else ():
            layer._compiled_call_impl = None
        for learner in self.learners.values():
            del learner.optimizer.found_inf  # type: ignore[attr-defined]
            for parameter in learner.parameters:
                parameter.grad = None
        self.model.train(self._was_training)

    def _layers(self) -> list[torch.nn.Module]:
        from transformers.modeling_layers import GradientCheckpointingLayer

        return [m for m in self._base.modules() if isinstance(m, GradientCheckpointingLayer)]

    def _compile(self) -> None:
        layers = self._layers()
        self.reporter.say(f"  compiling {len(layers)} layers (kept for the next run)")
        # Layers of one class share their code, and each guards its own adapter.
        limit = 4 * len(layers) + 8
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
        accumulated = torch._dynamo.config.accumulated_recompile_limit
        torch._dynamo.config.accumulated_recompile_limit = max(accumulated, 4 * limit)
        for layer in layers:
            layer.compile(dynamic=False)

    def _replay(
        self, rows: FixedRows, control: dict[str, torch.Tensor], *, trains: bool
    ) -> torch.Tensor:
        key = (trains, rows.shape)
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._record(rows, control, trains=trains)
        for name, buffer in recording.buffers.items():
            buffer.copy_(
                control[name] if name in control else rows.tensors[name], non_blocking=True
            )
        recording.run()
        return recording.result

    def _record(
        self, rows: FixedRows, control: dict[str, torch.Tensor], *, trains: bool
    ) -> _Recording:
        buffers = {
            name: tensor.to(self.device, copy=True)
            for name, tensor in {**rows.tensors, **control}.items()
        }
        result = torch.zeros(2, len(self._order), dtype=self.maker.wide, device=self.device)
        body = _Body(self, buffers, result, rows.shape, trains)
        if trains:
            # Runs that only warm up leave every learner as it is.
            buffers["idle"].fill_(1)
        made = _Recording(buffers, result, body)
        if self.recorder is None or not rows.shape.is_usual:
            return made
        if len(self._recordings) >= MAX_RECORDINGS:
            self._say_once("more shapes than are recorded; the others run step by step")
            return made
        try:
            self._warm_up(body)
            made.run = self.recorder.record(body)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers and drivers raise what they like
            self.recorder = None
            self._clear_gradients()
            self._say_once(f"steps are not recorded on this device: {_first_line(error)}")
        self._recordings[(trains, rows.shape)] = made
        return made

    def _warm_up(self, body: _Body) -> None:
        assert self.recorder is not None
        shape = body.shape
        self.reporter.say(
            f"  recording {'steps' if body.trains else 'validation'} of"
            f" {shape.passes} x {shape.rows} x {shape.source + shape.target} tokens"
        )
        try:
            self.recorder.warm_up(body)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not self.flex:
                raise
            self.flex = False
            self._clear_gradients()
            self._say_once(f"attention runs dense: {_first_line(error)}")
            self.recorder.warm_up(body)

    def _clear_gradients(self) -> None:
        for learner in self.learners.values():
            for parameter in learner.parameters:
                parameter.grad = torch.zeros_like(parameter)

    def _say_once(self, notice: str) -> None:
        said: set[str] = self.__dict__.setdefault("_said", set())
        if notice not in said:
            said.add(notice)
            self.reporter.say(f"  {notice}")

    def forward(self, tensors: dict[str, torch.Tensor], shape: Shape) -> torch.Tensor:
        """``[K, L]``: each label's cross-entropy times its importance."""
        target = tensors.get("target_examples")
        flex = self.flex and fixed_attention.fits_blocks(shape.source, shape.target)
        inputs = {
            name: tensors[name]
            for name in ("input_ids", "position_ids", "decoder_input_ids")
            if name in tensors
        }
        masks = fixed_attention.row_masks(tensors["source_examples"], target, flex=flex)
        hidden = self._base(**inputs, **masks, use_cache=False).logits
        k, n, width = hidden.shape
        places = tensors["label_places"] + torch.arange(k, device=hidden.device)[:, None] * n
        each: torch.Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden.reshape(-1, width).index_select(0, places.flatten()),
            self._weight,
            tensors["labels"].flatten(),
            tensors["importance"].flatten(),
        )
        return each.view(k, -1)

    def tell(self, seeds: torch.Tensor, counters: torch.Tensor) -> None:
        """Name the masks of the next pass."""
        self._fused.signals.seeds.copy_(seeds)
        self._fused.signals.counters.copy_(counters)

    def update(self, buffers: dict[str, torch.Tensor], result: torch.Tensor) -> None:
        """Clip and move every learner, then clear the gradients."""
        self.ranks.sum_(result[0])
        for row, number in enumerate(self._order):
            learner = self.learners[number]
            self.ranks.sum_gradients(learner.parameters)
            gradients = [p.grad for p in learner.parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            result[1, row] = norm
            finite = torch.isfinite(norm) & torch.isfinite(result[0, row])
            self._stops[row].copy_(torch.where(finite, buffers["idle"][row], 1.0))
            over = (norm + _CLIP_EPSILON) / (learner.max_norm or math.inf)
            torch._foreach_div_(gradients, over.clamp(min=1.0))
            set_rate(learner.optimizer, buffers["rates"][row])
            learner.optimizer.step()
            torch._foreach_zero_(gradients)


@dataclass(frozen=True)
class _Body:
    """The work itself: reads buffers, writes ``result``, and never waits for the device."""

    step: CapturedStep
    buffers: dict[str, torch.Tensor]
    result: torch.Tensor
    shape: Shape
    trains: bool

    def __call__(self) -> None:
        self.result.zero_()
        rows = {n: t for n, t in self.buffers.items() if n not in _CONTROL}
        for number in range(self.shape.passes):
            tensors = {name: tensor[number] for name, tensor in rows.items()}
            if not self.trains:
                with torch.no_grad():
                    self.result[0] += self.step.forward(tensors, self.shape).sum(1)
                continue
            self.step.tell(self.buffers["seeds"], self.buffers["counters"][number])
            each = self.step.forward(tensors, self.shape)
            each.sum().backward()  # type: ignore[no-untyped-call]
            self.result[0] += each.detach().sum(1)
        if self.trains:
            self.step.update(self.buffers, self.result)


_CONTROL = frozenset({"seeds", "counters", "rates", "idle"})


class _Reading:
    """Copies a step's numbers off the device; waits only when asked for them."""

    def __init__(self, result: torch.Tensor, prepared: Prepared, order: list[int]) -> None:
        self._prepared, self._order = prepared, order
        self._event: torch.cuda.Event | None = None
        if result.is_cuda:
            self._host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            self._host.copy_(result, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = result.clone()

    def read(self) -> dict[int, Outcome]:
        """See ``Pending``."""
        if self._event is not None:
            self._event.synchronize()
        losses, norms = self._host.tolist()
        rows = {number: row for row, number in enumerate(self._order)}
        return {
            number: Outcome(
                losses[rows[number]] * self._prepared.supervised[rows[number]],
                norms[rows[number]],
            )
            for number in self._prepared.numbers
        }


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
