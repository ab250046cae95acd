"""Which way steps are made: recorded where the device and the model allow, else one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from veritune.errors import EnvironmentFault
from veritune.model.fixed_attention import drops_attention
from veritune.model.fuse_fixed import why_not_fixed
from veritune.progress import Reporter
from veritune.train.batches import Layout
from veritune.train.captured import CapturedStep
from veritune.train.fixed_rows import RowMaker
from veritune.train.ranks import Ranks
from veritune.train.record import CudaRecorder
from veritune.train.step import EagerStep, Learner, Step

Engine = Literal["auto", "eager", "captured"]
Compile = Literal["auto", "on", "off"]
WORTH_COMPILING = 2000
"""Steps; compiling the layers takes about as long as these save (measured on one H100)."""


def why_not_captured(
    model: Any, adapters: Mapping[int, str], longest: int, device: torch.device
) -> str | None:
    """Why steps of this model are made one by one on this device, or None if they are recorded."""
    return _wrong_device(device) or why_not_fixed(model, adapters, longest)


def refuse_uncapturable(engine: Engine, device: torch.device) -> None:
    """Refuse recorded steps on a device that has none; the model is looked at later.

    Raises:
        EnvironmentFault: they were asked for and cannot be had.
    """
    reason = _wrong_device(device)
    if engine == "captured" and reason is not None:
        raise _uncapturable(reason)


def _wrong_device(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None
    return f"steps are recorded on CUDA only, and this is {device.type}"


def _uncapturable(reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        "recorded steps cannot be had here",
        received=f"train.engine: captured; {reason}",
        accepted="auto or eager",
        next_step="--set train.engine=auto",
    )


def make_step(
    model: Any,
    layout: Layout,
    learners: Mapping[int, Learner],
    device: torch.device,
    *,
    longest: int,
    n_steps: int,
    reporter: Reporter,
    ranks: Ranks | None = None,
    engine: Engine = "auto",
    compiles: Compile = "auto",
) -> Step:
    """The step for a model.

    Args:
        longest: tokens of the longest example; n_steps: of the whole training.

    Raises:
        EnvironmentFault: recorded steps were asked for and cannot be had.
    """
    ranks = ranks or Ranks()
    adapters = {row: learners[number].name for row, number in enumerate(sorted(learners))}
    reason = why_not_captured(model, adapters, longest, device)
    if engine == "captured" and reason is not None:
        raise _uncapturable(reason)
    if reason is not None or engine == "eager":
        if device.type == "cuda" and reason is not None:
            reporter.say(f"  steps are made one by one: {reason}")
        # On CUDA a single adapter then computes by PEFT's own layers.
        plain = device.type != "cpu" and len(learners) == 1
        fast = hasattr(model, "peft_config") and not plain
        return EagerStep(model, layout, learners, device, ranks, fast)
    first = next(iter(learners.values())).parameters[0]
    return CapturedStep(
        model=model,
        maker=RowMaker(
            layout.kind,
            layout.pad_id,
            layout.decoder_start_id,
            torch.promote_types(first.dtype, torch.float32),
        ),
        learners=learners,
        device=device,
        recorder=CudaRecorder(device),
        reporter=reporter,
        ranks=ranks,
        compiles=compiles == "on" or (compiles == "auto" and n_steps >= WORTH_COMPILING),
        flex=not drops_attention(model.get_base_model()),
    )
