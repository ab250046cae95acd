"""The system call filter, as the program that bubblewrap loads."""

from __future__ import annotations

import errno
import functools
import tempfile
from typing import Any

from veritune.sandbox.policy import DENIED_CALLS, NAMESPACE_FLAGS, TERMINAL_REQUESTS


@functools.cache
def filter_program() -> bytes:
    """Classic BPF of the deny-list; calls of another architecture end the process.

    Raises:
        OSError, ImportError, RuntimeError: libseccomp is not there.
    """
    import pyseccomp

    denied = pyseccomp.ERRNO(errno.EPERM)
    rules: Any = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in DENIED_CALLS:
        _add(rules, denied, name)
    for request in TERMINAL_REQUESTS:
        # The kernel looks at the lower half of the request only, and so must the filter.
        _add(rules, denied, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    for bit in range(NAMESPACE_FLAGS.bit_length()):
        flag = 1 << bit
        if flag & NAMESPACE_FLAGS:
            _add(rules, denied, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    # clone3 hides its flags behind a pointer; without it the C library falls back to clone.
    _add(rules, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(rules: Any, action: Any, name: str, *arguments: Any) -> None:
    import pyseccomp

    try:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    except (ValueError, OSError):
        return
    # Negative numbers stand for calls that this architecture does not have.
    if number >= 0:
        rules.add_rule(action, name, *arguments)
