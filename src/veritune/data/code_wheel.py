"""The Python files of a wheel, read in place: nothing is unpacked onto the disk.

A wheel is not trusted.  Names that lead out of it, far more bytes than packed code could give,
and entries that claim to be links are refused or left out; sizes are counted while reading, for
the archive's own words about them may be false.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import Path

from veritune.data.code_tree import MAX_FILE_BYTES, CodeFile, CodeTree, Unreadable
from veritune.data.licences import licence_of
from veritune.errors import DataError

MAX_ENTRIES = 100_000
MAX_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 64 << 20
_MAX_TEXT_BYTES = 1 << 20
_DIST_INFO = re.compile(r"[^/]+\.dist-info/(?:METADATA|(?:licenses/)?(?:LICEN[CS]E|COPYING)[^/]*)")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


def wheel_tree(path: Path, name: str) -> CodeTree:
    """List a wheel's Python files.

    Raises:
        DataError: it is no archive, is damaged, or is built to do harm.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _DAMAGE as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    _refuse_hostile(entries, path)
    left_out: Counter[str] = Counter()
    budget = _Budget(path)
    chosen: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        if not entry.filename.endswith(".py"):
            continue
        if _is_link(entry) or entry.flag_bits & 1:
            left_out["links and encrypted files"] += 1
        elif entry.filename in chosen:
            left_out["files named twice"] += 1
        else:
            chosen[entry.filename] = entry
    texts = {
        entry.filename: _read(path, entry, _MAX_TEXT_BYTES, budget).decode("utf-8", "replace")
        for entry in entries
        if _DIST_INFO.fullmatch(entry.filename) and not entry.flag_bits & 1
    }
    about = HeaderParser().parsestr(
        next((text for file, text in texts.items() if file.endswith("METADATA")), "")
    )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return CodeTree(
        name,
        [CodeFile(file, _reader(path, chosen[file], budget)) for file in sorted(chosen)],
        revision=about.get("Version"),
        licence=licence_of(texts),
        facts={"package": about.get("Name"), "wheel_sha256": sha256},
        left_out=left_out,
    )


class _Budget:
    """Bytes that may still come out of a wheel."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.packed = path.stat().st_size
        self.limit = max(_ALWAYS_ALLOWED_BYTES, MAX_RATIO * self.packed)
        self._used = 0

    def take(self, n_bytes: int) -> None:
        self._used += n_bytes
        if self._used > self.limit:
            raise DataError(
                f"the wheel unpacks to more than {MAX_RATIO} times its size",
                received=f"{self._path}: {self.packed:,} bytes packed, more than"
                f" {self.limit:,} unpacked",
                accepted="a package of Python files",
                next_step="look into it before you trust it",
            )


def _refuse_hostile(entries: list[zipfile.ZipInfo], path: Path) -> None:
    if len(entries) > MAX_ENTRIES:
        raise DataError(
            f"the wheel has more than {MAX_ENTRIES:,} files",
            received=f"{len(entries):,} in {path}",
            accepted="a package of Python files",
            next_step="look into it before you trust it",
        )
    for entry in entries:
        parts = entry.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0] or not entry.filename.isprintable():
            raise DataError(
                "a file of the wheel has a name that leads out of it",
                received=f"{entry.filename[:200]!r} in {path}",
                accepted="relative names without ..",
                next_step="do not install it either; get the package from its publisher",
            )


def _is_link(entry: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(entry.external_attr >> 16)


def _reader(path: Path, entry: zipfile.ZipInfo, budget: _Budget) -> Callable[[], bytes]:
    def read() -> bytes:
        content = _read(path, entry, MAX_FILE_BYTES, budget)
        if len(content) > MAX_FILE_BYTES:
            raise Unreadable("files over 1 MiB")
        return content

    return read


def _read(path: Path, entry: zipfile.ZipInfo, limit: int, budget: _Budget) -> bytes:
    """At most one byte more than ``limit``, whatever the archive says of the size."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(entry) as file:
            content = file.read(limit + 1)
    except _DAMAGE as error:
        raise _damaged(path, f"{entry.filename}: {error}") from error
    budget.take(len(content))
    return content


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        "the wheel cannot be read",
        received=f"{path}: {why}",
        accepted="a whole .whl file",
        next_step="download it again; `python -m zipfile -t FILE` checks it",
    )
