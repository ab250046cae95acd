"""Files and folders that are whole or absent, never half.

A file is written under a temporary name in its own folder, flushed to disk, and renamed.
A failed write leaves what was there before and raises ``DiskFault``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from veritune.errors import DiskFault

_NO_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
)
"""The path itself cannot be written, as far as the operating system is concerned."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write; on success it takes the place of ``path``.

    Raises:
        DiskFault: the disk is full, read-only, or the folder may not be written.
    """
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _flush(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it takes the place of ``path``.

    Raises:
        DiskFault: as ``atomic_write``.
    """
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            temporary.chmod(0o777 & ~_umask())
            if path.exists():
                retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
                path.replace(retired / path.name)
                temporary.replace(path)
                shutil.rmtree(retired, ignore_errors=True)
            else:
                temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON with sorted keys left as given, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=True, allow_nan=False) + "\n")


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors below ``path`` into ``DiskFault``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(_existing(path)).free
            raise DiskFault(
                f"the disk is full; {path.name} was not written and nothing was lost",
                received=f"{path} ({free / 2**20:.0f} MiB free)",
                accepted="a folder with enough free space",
                next_step="free some space, or name another output_dir, and run again",
            ) from error
        if error.errno in _NO_PLACE:
            raise DiskFault(
                f"cannot write here: {error.strerror}",
                received=path,
                accepted="a folder that this user may write",
                next_step="name another output_dir, or change its permissions",
            ) from error
        raise


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
