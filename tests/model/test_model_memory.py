"""Memory of steps: each step's own peak, not the highest the process ever reached."""

from __future__ import annotations

import json
import subprocess
import sys
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


_PAST = """
import json, sys
import torch
from veritune.model import memory

def touch(mib):
    assert torch.ones(mib * 2**18).sum() > 0
    torch.ones(1).item()  # long enough for a sampling thread to look

if sys.argv[1] == memory.SAMPLED:
    memory._cpu_method = lambda: memory.SAMPLED
    memory._SAMPLE_EVERY_SECONDS = 0.001
touch(400)
meter = memory.StepMemory(torch.device("cpu"))
with meter.watch():
    touch(64)
touch(300)
with meter.watch():
    touch(32)
print(json.dumps(meter.to_json()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [HIGH_WATER, SAMPLED])
def test_a_peak_of_the_past_and_one_between_steps_do_not_count(how: str) -> None:
    """In a process of its own: what others have done to this one's heap is not asked here."""
    if memory._cpu_method() != HIGH_WATER and how == HIGH_WATER:
        pytest.skip("this system does not let a process reset its high-water mark")
    command = [sys.executable, "-c", _PAST, how]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["peak_memory_how"] == how and found["peak_memory_steps"] == 2
    assert 56 * MIB < found["peak_memory_bytes"] < 120 * MIB


def test_no_step_no_number() -> None:
    assert _measured()["peak_memory_bytes"] is None
