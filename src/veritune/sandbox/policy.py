"""What code in the sandbox may do, and how much of it.

It sees a read-only ``/usr``, an empty home and its own ``/tmp``; it has no network, no other
process, no privileges.  Whatever is not here is not there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of one execution.

    Attributes:
        wall_seconds: from the start of the process to its end, by the parent's clock.
        cpu_seconds: of every process.
        address_bytes: address space of every process.
        resident_bytes: memory of all processes of one execution together.
        processes: processes and threads alive at once.
        open_files: descriptors of every process.
        file_bytes: size of one file.
        tmp_bytes: of ``/tmp``, and of ``/dev/shm``.
        output_bytes: printed to stdout and stderr together.
        result_bytes: sent back as values.
    """

    wall_seconds: float = 5.0
    cpu_seconds: int = 6
    address_bytes: int = 1024 * _MIB
    resident_bytes: int = 1024 * _MIB
    processes: int = 24
    open_files: int = 64
    file_bytes: int = 16 * _MIB
    tmp_bytes: int = 32 * _MIB
    output_bytes: int = 1 * _MIB
    result_bytes: int = 8 * _MIB

    def to_json(self) -> dict[str, object]:
        """Every limit and the denied calls, for cache keys and manifests."""
        return {**asdict(self), "denied_calls": list(DENIED_CALLS)}


DENIED_CALLS = (
    # the network, beyond the empty network namespace
    "socket",
    # other processes
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    # mounts and namespaces
    "mount",
    "umount2",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "pivot_root",
    "chroot",
    "unshare",
    "setns",
    # wide interfaces of the kernel
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "memfd_create",
    "memfd_secret",
    "name_to_handle_at",
    "open_by_handle_at",
    "fanotify_init",
    "personality",
    "modify_ldt",
    "iopl",
    "ioperm",
    # the machine itself
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "swapon",
    "swapoff",
    "quotactl",
    "acct",
    "syslog",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "sethostname",
    "setdomainname",
    "vhangup",
)
"""System calls that fail with EPERM; creating a user namespace by ``clone`` does as well."""

TERMINAL_REQUESTS = (0x5412, 0x541C)
"""``ioctl`` requests that type into a terminal: TIOCSTI and TIOCLINUX."""

NAMESPACE_FLAGS = 0x7E020000
"""Flags of ``clone`` that make a namespace of any kind (linux/sched.h)."""
