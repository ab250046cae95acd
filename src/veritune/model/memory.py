"""How much memory steps of training need, above what the process held before the model.

On CUDA this is ``torch.cuda.max_memory_allocated``.  On a CPU it is the peak resident set.
``ru_maxrss`` is the maximum of the process's whole life and so says nothing of a second
model; Linux lets a process lower its high-water mark to the present (``5`` written to
``/proc/self/clear_refs``, proc(5)) and read it again as ``VmHWM``.  Where that is not
offered, the resident set is sampled by a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_HIGH_WATER = "5"
_SAMPLE_EVERY_SECONDS = 0.02
# A process's own memory: the first of two equal trainings of a tiny model needed 30 MiB more,
# for code that libraries load late.
_PROCESS_NOISE_BYTES = 64 * 2**20

CUDA = "CUDA memory allocated, maximum over the steps"
HIGH_WATER = "resident memory (VmHWM, reset before each step), maximum over the steps"
SAMPLED = f"resident memory, sampled every {_SAMPLE_EVERY_SECONDS * 1000:.0f} ms during the steps"


class StepMemory:
    """The peak memory of the steps it watches, above the level it was made at.

    Make it before the model is loaded, so that weights count.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.how = CUDA if device.type == "cuda" else _cpu_method()
        self.steps = 0
        _load_code()
        _give_back()
        self._before = self._now()
        self._peak = 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch one step."""
        if self.how == SAMPLED:
            with self._sampling():
                yield
        else:
            self._reset()
            yield
            self._peak = max(self._peak, self._high_water())
        self.steps += 1

    def to_json(self) -> dict[str, object]:
        """The entries of a training summary; the peak is None if no step was watched."""
        return {
            "peak_memory_bytes": max(0, self._peak - self._before) if self.steps else None,
            "peak_memory_how": self.how,
            "peak_memory_steps": self.steps,
            "peak_memory_noise_bytes": 0 if self.how == CUDA else _PROCESS_NOISE_BYTES,
        }

    def _now(self) -> int:
        if self.how == CUDA:
            return int(torch.cuda.memory_allocated(self._device))
        return int(psutil.Process().memory_info().rss)

    def _reset(self) -> None:
        if self.how == CUDA:
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _CLEAR_REFS.write_text(_RESET_HIGH_WATER, encoding="ascii")

    def _high_water(self) -> int:
        if self.how == CUDA:
            return int(torch.cuda.max_memory_allocated(self._device))
        return high_water_bytes()

    @contextlib.contextmanager
    def _sampling(self) -> Iterator[None]:
        done = threading.Event()

        def sample() -> None:
            while True:
                self._peak = max(self._peak, self._now())
                if done.wait(_SAMPLE_EVERY_SECONDS):
                    return

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._peak = max(self._peak, self._now())
            done.set()
            thread.join()


def high_water_bytes() -> int:
    """The process's largest resident set since its mark was last reset."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def _cpu_method() -> str:
    try:
        _CLEAR_REFS.write_text(_RESET_HIGH_WATER, encoding="ascii")
        high_water_bytes()
    except OSError:
        return SAMPLED
    return HIGH_WATER


def _load_code() -> None:
    """Let libraries load what training loads late, lest the first training pay for it."""
    importlib.import_module("peft")
    with torch.random.fork_rng(devices=[]):
        for dtype in (torch.float32, torch.bfloat16):
            layer = torch.nn.Linear(8, 8, dtype=dtype)
            optimizer = torch.optim.AdamW(layer.parameters())
            layer(torch.ones(2, 8, dtype=dtype)).sum().backward()
            optimizer.step()


def _give_back() -> None:
    """Return freed memory to the system, so that it is not mistaken for memory in use."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
