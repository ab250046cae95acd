"""The Python files of a git checkout: as they lie on disk, or as a commit has them.

``git`` is asked for names and stored content only, with everything switched off by which a
repository could make it run a command or reach the network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from veritune.data.code_folder import folder_tree, is_plain_file, reader, shown
from veritune.data.code_tree import MAX_FILE_BYTES, CodeFile, CodeTree, Unreadable
from veritune.data.licences import licence_of
from veritune.errors import DataError, EnvironmentFault

_TIMEOUT_SECONDS = 120
_MAX_TOTAL_BYTES = 1 << 30
_HARMLESS = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"),
    *("-c", "protocol.allow=never", "-c", "core.quotePath=false", "-c", "core.pager=cat"),
)
_ROOT_TEXTS = ("pyproject.toml", "setup.cfg", "LICENSE", "LICENCE", "COPYING")


class GitFailed(Exception):
    """git is not there, or does not answer; the message says why."""


class _Entry(NamedTuple):
    """One file of a commit."""

    name: str
    blob: str
    n_bytes: int


def is_checkout(root: Path) -> bool:
    """Whether a folder lies in a git checkout."""
    return any((folder / ".git").exists() for folder in (root, *root.resolve().parents))


def commit_of(root: Path, revision: str = "HEAD") -> str:
    """The full hash of a commit.

    Raises:
        GitFailed: there is no such commit, or no git.
    """
    words = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    return _git(root, *words).decode().strip()


def checkout_tree(root: Path, name: str) -> CodeTree:
    """The files that git tracks, as they are on disk.

    Its revision is the commit checked out; ``is_dirty`` says whether a tracked Python file differs
    from it.  Where git cannot be asked, the folder is walked, with a notice.
    """
    try:
        names = _names(_git(root, "ls-files", "-z", "--", "."))
    except GitFailed as fault:
        tree = folder_tree(root, name)
        tree.notices.append(f"git could not be asked ({fault}): untracked files may be among them")
        return tree
    paths = [
        root / item
        for item in names
        if item.endswith(".py") and _is_inside(root / item, root) and is_plain_file(root / item)
    ]
    if not paths:
        tree = folder_tree(root, name)
        tree.notices.append("git tracks no Python file in this folder: all of its files are read")
        return tree
    files = [CodeFile(shown(path.relative_to(root)), reader(path)) for path in sorted(paths)]
    try:
        commit = commit_of(root)
        stored = {entry.name: entry.blob for entry in _entries(root, commit)}
    except GitFailed:  # a repository without a commit
        return CodeTree(name, files, root.resolve().name, facts={"is_dirty": True})
    dirty = _dirty(root, paths, stored)
    notices = []
    if dirty:
        more = f" and {len(dirty) - 1} more" if len(dirty) > 1 else ""
        notices = [f"the checkout differs from its commit {commit[:12]}: {dirty[0]}{more}"]
    return CodeTree(
        name,
        files,
        package=root.resolve().name,
        revision=commit,
        licence=_licence(root, commit),
        facts={"is_dirty": bool(dirty), "n_dirty_files": len(dirty)},
        notices=notices,
    )


def commit_tree(root: Path, name: str, revision: str) -> CodeTree:
    """The files as a commit has them; what lies on disk is not looked at.

    Raises:
        DataError: the repository has no such revision.
        EnvironmentFault: git is not installed or does not answer.
    """
    if shutil.which("git") is None:
        raise EnvironmentFault(
            "another commit's files are read through git, which is not installed",
            received=f"{name} at {revision}",
            accepted="git on the PATH",
            next_step="install git, or check that commit out and leave the revision away",
        )
    try:
        commit = commit_of(root, revision)
        entries = [entry for entry in _entries(root, commit) if entry.name.endswith(".py")]
        contents = _contents(root, [item for item in entries if item.n_bytes <= MAX_FILE_BYTES])
    except GitFailed as fault:
        raise DataError(
            "the repository has no such revision",
            received=f"{revision!r} in {root}" + (f" ({fault})" if str(fault) else ""),
            accepted="a commit, branch or tag that is in it",
            next_step=f"look at `git -C {root} log --oneline`; a shallow clone lacks old commits",
        ) from fault
    return CodeTree(
        name,
        [CodeFile(entry.name, _stored(contents, entry.blob)) for entry in entries],
        package=root.resolve().name,
        revision=commit,
        licence=_licence(root, commit),
        facts={"is_dirty": False},
    )


def _git(root: Path, *arguments: str, given: bytes = b"") -> bytes:
    command = ["git", "--no-optional-locks", "-C", str(root), *_HARMLESS, *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
            env=environment,
        )
    except FileNotFoundError:
        raise GitFailed("it is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitFailed(type(error).__name__) from None
    if done.returncode:
        raise GitFailed(done.stderr.decode("utf-8", "replace").strip().split("\n")[0][:200])
    return done.stdout


def _names(listing: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def _entries(root: Path, commit: str, *, below: bool = True) -> list[_Entry]:
    """The plain files of a commit in ``root``, named from it; links and submodules aside.

    Args:
        below: folders in it too.
    """
    depth = ("-r",) if below else ()
    found = []
    for line in _git(root, "ls-tree", *depth, "-l", "-z", commit, "--", ".").split(b"\0"):
        about, _, name = line.partition(b"\t")
        mode, _, blob, size = [*about.decode().split(), "", "", "", ""][:4]
        if mode.startswith("100"):
            found.append(_Entry(name.decode("utf-8", "replace"), blob, int(size)))
    return found


def _contents(root: Path, entries: Sequence[_Entry]) -> dict[str, bytes]:
    """Content by blob."""
    if sum(entry.n_bytes for entry in entries) > _MAX_TOTAL_BYTES:
        raise DataError(
            "the commit holds more than 1 GiB of Python code",
            received=str(root),
            accepted="a code base",
            next_step="name a folder of it",
        )
    blobs = list(dict.fromkeys(entry.blob for entry in entries))
    answer = _git(root, "cat-file", "--batch", given="\n".join([*blobs, ""]).encode())
    found, place = {}, 0
    for blob in blobs:
        end = answer.index(b"\n", place)
        head = answer[place:end].split()
        if len(head) != 3:
            raise GitFailed(f"the object {blob[:12]} is missing")
        place = end + 1 + int(head[2])
        found[blob] = answer[end + 1 : place]
        place += 1
    return found


def _stored(contents: dict[str, bytes], blob: str) -> Callable[[], bytes]:
    def read() -> bytes:
        if blob not in contents:
            raise Unreadable("files over 1 MiB")
        return contents[blob]

    return read


def _dirty(root: Path, paths: Sequence[Path], stored: dict[str, str]) -> list[str]:
    """Tracked Python files that are not as the commit has them, deleted ones included.

    Compared by content hash here: ``git status`` might run the repository's own filters.
    """
    there = {shown(path.relative_to(root)): path for path in paths}
    changed = [name for name in stored if name.endswith(".py") and name not in there]
    for name, path in there.items():
        blob = stored.get(name, "")
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        forms = (content, content.replace(b"\r\n", b"\n"))
        if blob not in {_blob_hash(form, len(blob)) for form in forms}:
            changed.append(name)
    return sorted(changed)


def _blob_hash(content: bytes, n_digits: int) -> str:
    data = b"blob %d\0" % len(content) + content
    if n_digits == 64:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _licence(root: Path, commit: str) -> str | None:
    """What the repository's top folder says at a commit."""
    try:
        top = Path(os.fsdecode(_git(root, "rev-parse", "--show-toplevel")).strip("\n"))
        entries = [
            entry
            for entry in _entries(top, commit, below=False)
            if entry.name.startswith(_ROOT_TEXTS) and entry.n_bytes <= MAX_FILE_BYTES
        ]
        contents = _contents(top, entries)
    except GitFailed:
        return None
    return licence_of(
        {entry.name: contents[entry.blob].decode("utf-8", "replace") for entry in entries}
    )


def _is_inside(path: Path, root: Path) -> bool:
    """Whether a tracked name still leads to a place below ``root``, links followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False
