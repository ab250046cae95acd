"""Keep a CPU process's resident memory near what its tensors need."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # <malloc.h>
_THRESHOLD_BYTES = 2**20


def give_back_early() -> None:
    """Let large freed blocks go back to the system at once instead of being kept for reuse.

    glibc raises its own threshold to 32 MiB as a training goes on, and what it keeps in
    pieces came to 20 to 50 % of the resident set; giving back costs 5 to 8 % of the time
    (docs/log.md).  Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
