"""What the machine offers: device, bf16, memory.  Detected, never assumed."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from veritune.config import ModelSection
from veritune.errors import EnvironmentFault

_CPU_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Placement:
    """Where the model lives and in which precision its frozen weights are kept."""

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """Such as ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")


def choose_placement(section: ModelSection) -> Placement:
    """Resolve ``model.device`` and ``model.dtype``.

    Raises:
        EnvironmentFault: CUDA was asked for and is not there.
    """
    has_cuda = torch.cuda.is_available()
    if section.device == "cuda" and not has_cuda:
        raise EnvironmentFault(
            "no CUDA device is available",
            received="model.device: cuda",
            accepted="cpu, or auto, on this machine",
            next_step="`veritune doctor` says what this machine has; set model.device to auto",
        )
    device = torch.device("cuda" if has_cuda and section.device != "cpu" else "cpu")
    if section.dtype != "auto":
        return Placement(device, getattr(torch, section.dtype))
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bf16()
    return Placement(device, torch.bfloat16 if fast else torch.float32)


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    return bool(_CPU_BF16_FLAGS & cpu_flags())


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty elsewhere."""
    return frozenset(_cpuinfo("flags").split())


@functools.cache
def cpu_name() -> str:
    """The CPU's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def available_bytes(device: torch.device) -> int:
    """Memory that new tensors on ``device`` may take, container limits included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    used = psutil.Process().memory_info().rss
    for name in _CGROUP_LIMITS:
        try:
            limit = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if limit.isdigit():
            free = min(free, max(0, int(limit) - used))
    return free


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_hardware(placement: Placement | None = None) -> dict[str, object]:
    """The manifest's ``hardware`` entry."""
    has_cuda = torch.cuda.is_available()
    return {
        "cpu": cpu_name(),
        "cores": core_count(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "gpu": torch.cuda.get_device_name(0) if has_cuda else None,
        "cpu_bf16": cpu_has_bf16(),
        "device": placement.device.type if placement else None,
        "dtype": placement.dtype_name if placement else None,
    }
