"""The compiled library: built once a machine and source, kept in the cache folder.

Nothing is asked of the user: without a C compiler, or on another CPU, decoding runs in torch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from veritune.model.hardware import cpu_flags, cpu_name
from veritune.places import cache_folder

_SOURCE = Path(__file__).with_name("forward.c")
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fopenmp", "-shared", "-fPIC")
_NEEDS = {
    torch.bfloat16: frozenset({"avx512f", "avx512bw", "avx512_bf16"}),
    torch.float32: frozenset({"avx512f", "avx512bw"}),
}
_COMPILE_SECONDS = 120


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The forward pass for weights of ``dtype``, or None where it cannot be had."""
    if dtype not in _NEEDS or not _NEEDS[dtype] <= cpu_flags():
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    flags = [*_FLAGS, *(["-DVERITUNE_FP32"] if dtype == torch.float32 else [])]
    try:
        return ctypes.CDLL(str(_built(compiler, flags)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compiler() -> str | None:
    names = [os.environ.get("CC", ""), "cc", "gcc"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _built(compiler: str, flags: list[str]) -> Path:
    parts = sorted([_SOURCE, *_SOURCE.parent.glob("*.h")])
    source = b"".join(part.read_bytes() for part in parts)
    about = "\n".join([compiler, *flags, cpu_name(), *sorted(cpu_flags())])
    key = hashlib.sha256(source + about.encode()).hexdigest()[:16]
    target = cache_folder() / "native" / f"forward-{key}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        subprocess.run(
            [compiler, *flags, str(_SOURCE), "-o", str(made), "-lm"],
            check=True,
            capture_output=True,
            timeout=_COMPILE_SECONDS,
        )
        made.replace(target)
    return target
