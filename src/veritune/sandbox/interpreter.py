"""Which Python runs inside, and the command that puts it there."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from veritune.sandbox.policy import Policy

_FIRST_UID = 64_000
INSTALL = "apt-get install bubblewrap"


class SandboxMissing(RuntimeError):
    """Something that the sandbox is made of is not here; the message says what."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that an unprivileged user can start.

    Attributes:
        path: of the real executable, not of a version manager's shim.
        prefix: folder of its library, where that is not below ``/usr``.
    """

    path: str
    prefix: str | None


@functools.cache
def find_interpreter() -> Interpreter:
    """The running Python, or the system's of the same version where users cannot read it.

    Raises:
        SandboxMissing: there is none.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    here = Path(sys.executable).resolve()
    places = (here, Path(f"/usr/local/bin/python{version}"), Path(f"/usr/bin/python{version}"))
    for path in (place.resolve() for place in places if place.is_file()):
        prefix = path.parent.parent
        if os.geteuid() != 0 or (_open_to_all(path) and _open_to_all(prefix / "lib")):
            return Interpreter(str(path), None if prefix.is_relative_to("/usr") else str(prefix))
    raise SandboxMissing(
        f"no Python {version} that an unprivileged user may start ({here} is private);"
        f" install python{version} in /usr or move the environment out of a private folder"
    )


def bubblewrap() -> tuple[str, tuple[int, ...]]:
    """Path and version of bubblewrap.

    Raises:
        SandboxMissing: it is not installed.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxMissing(f"bubblewrap is not installed ({INSTALL})")
    return path, _version(path)


@functools.cache
def _version(path: str) -> tuple[int, ...]:
    words = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    numbers = words.stdout.split()[-1:] or ["0"]
    return tuple(int(part) for part in numbers[0].split(".") if part.isdigit())


def command(policy: Policy, slot: int, seccomp_fd: int, hash_seed: int) -> list[str]:
    """The command before the child's own arguments.

    Args:
        slot: number of the worker; each has a user id of its own, so that limits on the
            number of processes and signals never reach the next one.

    Raises:
        SandboxMissing: bubblewrap or an interpreter is not there.
    """
    bwrap, version = bubblewrap()
    python = find_interpreter()
    size = str(policy.tmp_bytes)
    return [
        *_drop_user(_FIRST_UID + slot),
        bwrap,
        "--unshare-all",
        "--unshare-user",
        *(["--disable-userns"] if version >= (0, 8) else []),
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *("--ro-bind", "/usr", "/usr"),
        *_links(),
        *(["--ro-bind", python.prefix, python.prefix] if python.prefix else []),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--size", size, "--tmpfs", "/tmp", "--size", size, "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--remount-ro", "/dev", "--remount-ro", "/"),
        *("--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp"),  # noqa: S108
        *("--setenv", "LANG", "C.UTF-8", "--setenv", "PYTHONHASHSEED", str(hash_seed)),
        *("--chdir", "/tmp", "--seccomp", str(seccomp_fd), "--"),  # noqa: S108
        *(python.path, "-P", "-s", "-S", "-B"),
    ]


def _drop_user(uid: int) -> list[str]:
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SandboxMissing("setpriv is not installed, so privileges cannot be dropped")
    ids = ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
    return [setpriv, *ids, "--inh-caps=-all", "--no-new-privs", "--"]


def _links() -> list[str]:
    """``/lib`` and its kin, which are links into ``/usr`` or folders of their own."""
    found = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            found += ["--symlink", f"usr/{name}", str(path)]
        elif path.is_dir():
            found += ["--ro-bind", str(path), str(path)]
    return found


def _open_to_all(path: Path) -> bool:
    """Whether everybody may read it and pass through every folder on the way."""
    try:
        if not path.stat().st_mode & 0o004:
            return False
        return all(folder.stat().st_mode & 0o001 for folder in path.parents)
    except OSError:
        return False
