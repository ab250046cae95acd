"""The Python files below a folder; links, hidden folders and virtual environments aside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from veritune.data.code_tree import MAX_FILE_BYTES, CodeFile, CodeTree, Unreadable
from veritune.data.licences import licence_of


def folder_tree(
    root: Path, name: str, *, passed_over: frozenset[str] = frozenset({"__pycache__"})
) -> CodeTree:
    """Walk a folder, or take a single file.

    Args:
        passed_over: names of folders that are not looked into.
    """
    if root.is_file():
        return CodeTree(name, [CodeFile(shown(Path(root.name)), reader(root))], is_walked=True)
    left_out: Counter[str] = Counter()
    paths = _python_files(root, passed_over, left_out)
    return CodeTree(
        name,
        [CodeFile(shown(path.relative_to(root)), reader(path)) for path in paths],
        package=root.resolve().name,
        licence=licence_of(_texts_beside(root)),
        is_walked=True,
        left_out=left_out,
    )


def reader(path: Path) -> Callable[[], bytes]:
    """Read a file of at most ``MAX_FILE_BYTES``."""

    def read() -> bytes:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError:
            raise Unreadable("files that cannot be opened") from None
        if len(content) > MAX_FILE_BYTES:
            raise Unreadable("files over 1 MiB")
        return content

    return read


def shown(path: Path) -> str:
    """A relative path with slashes, as text that can be written anywhere."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def is_plain_file(path: Path) -> bool:
    """Whether it is a file itself: no link, no pipe."""
    return path.is_file() and not path.is_symlink()


def _python_files(root: Path, passed_over: frozenset[str], left_out: Counter[str]) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        kept = []
        for name in folders:
            if (here / name / "pyvenv.cfg").exists():
                left_out["virtual environments"] += 1
            elif name not in passed_over and not name.startswith("."):
                kept.append(name)
        folders[:] = kept
        found += [here / name for name in names if name.endswith(".py")]
    return sorted(
        (path for path in found if is_plain_file(path)),
        key=lambda path: path.relative_to(root).as_posix(),
    )


def _texts_beside(root: Path) -> dict[str, str]:
    """The files of a project's top folder that may name its licence; of its parent, if none."""
    for folder in (root, root.parent):
        found = {}
        for name in ("pyproject.toml", "setup.cfg", *_licence_names(folder)):
            path = folder / name
            if is_plain_file(path):
                try:
                    found[name] = reader(path)().decode("utf-8", "replace")
                except Unreadable:
                    continue
        if found:
            return found
    return {}


def _licence_names(folder: Path) -> list[str]:
    try:
        names = [item.name for item in folder.iterdir()]
    except OSError:
        return []
    return sorted(name for name in names if name.upper().startswith(("LICENSE", "LICENCE", "COPY")))
