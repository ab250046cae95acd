"""Memory of steps: each step's own peak, not the highest the process ever reached."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from veritune.model import memory
from veritune.model.memory import HIGH_WATER, SAMPLED, StepMemory

MIB = 2**20


def _touch(n_bytes: int) -> Callable[[], None]:
    def step() -> None:
        tensor = torch.ones(n_bytes // 4)
        assert tensor.sum() > 0
        # Long enough for a sampling thread to look.
        torch.ones(1).item()

    return step


def _measured(*steps: Callable[[], None]) -> dict[str, object]:
    meter = StepMemory(torch.device("cpu"))
    for step in steps:
        with meter.watch():
            step()
    return meter.to_json()


@pytest.mark.parametrize("how", [HIGH_WATER, SAMPLED])
def test_a_peak_of_the_past_and_one_between_steps_do_not_count(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == SAMPLED:
        monkeypatch.setattr(memory, "_cpu_method", lambda: SAMPLED)
        monkeypatch.setattr(memory, "_SAMPLE_EVERY_SECONDS", 0.001)
    elif memory._cpu_method() != HIGH_WATER:
        pytest.skip("this system does not let a process reset its high-water mark")
    _touch(400 * MIB)()
    meter = StepMemory(torch.device("cpu"))
    with meter.watch():
        _touch(64 * MIB)()
    _touch(300 * MIB)()
    with meter.watch():
        _touch(32 * MIB)()
    found = meter.to_json()
    assert found["peak_memory_how"] == how and found["peak_memory_steps"] == 2
    peak = found["peak_memory_bytes"]
    assert isinstance(peak, int) and 56 * MIB < peak < 120 * MIB


def test_no_step_no_number() -> None:
    assert _measured()["peak_memory_bytes"] is None
