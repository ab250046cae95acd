"""Compiled libraries: built once a machine and source, kept in the cache folder.

Nothing is asked of the user: without a C compiler, or on another CPU, the same is computed
in torch.
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

_HERE = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fopenmp", "-shared", "-fPIC")
_NEEDS = {
    torch.bfloat16: frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_bf16"}),
    torch.float32: frozenset({"avx512f", "avx512bw", "avx512vl"}),
}
_COMPILE_SECONDS = 120


@functools.cache
def library(source: Path, dtype: torch.dtype) -> ctypes.CDLL | None:
    """A C file for tensors of ``dtype``, or None where it cannot be had."""
    if dtype not in _NEEDS or not _NEEDS[dtype] <= cpu_flags():
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    flags = [*_FLAGS, *(["-DVERITUNE_FP32"] if dtype == torch.float32 else [])]
    try:
        return ctypes.CDLL(str(_built(source, compiler, flags)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compiler() -> str | None:
    names = [os.environ.get("CC", ""), "cc", "gcc"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _built(source: Path, compiler: str, flags: list[str]) -> Path:
    parts = sorted({source, *source.parent.glob("*.h"), *_HERE.glob("*.h")})
    text = b"".join(part.read_bytes() for part in parts)
    about = "\n".join([compiler, *flags, cpu_name(), *sorted(cpu_flags())])
    key = hashlib.sha256(text + about.encode()).hexdigest()[:16]
    target = cache_folder() / "native" / f"{source.stem}-{key}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        subprocess.run(
            [compiler, *flags, f"-I{_HERE}", str(source), "-o", str(made), "-lm"],
            check=True,
            capture_output=True,
            timeout=_COMPILE_SECONDS,
        )
        made.replace(target)
    return target
