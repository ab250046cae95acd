"""What stands behind ``code:``: the standard library, a folder, a file, a wheel, or a commit."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path
from typing import NamedTuple

from veritune.config import DataSection
from veritune.data.code_folder import folder_tree
from veritune.data.code_git import (
    GitFailed,
    checkout_tree,
    commit_of,
    commit_tree,
    is_checkout,
)
from veritune.data.code_tree import CodeTree
from veritune.data.code_wheel import wheel_tree
from veritune.data.source_kind import local_path
from veritune.errors import DataError

_NOT_OF_STDLIB = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "ensurepip", "idlelib", "lib2to3"}
    | {"pydoc_data", "turtledemo"}
)


class _Place(NamedTuple):
    target: str
    root: Path
    revision: str | None


def open_code(section: DataSection) -> CodeTree:
    """Find the files that a ``code:`` source names.

    Raises:
        DataError: there is nothing of the kind, or it has no such revision.
        EnvironmentFault: a commit is named, and git is not installed.
    """
    if section.source == "code:stdlib":
        version = platform.python_version()
        root = Path(sysconfig.get_paths()["stdlib"])
        tree = folder_tree(root, f"Python {version} standard library", passed_over=_NOT_OF_STDLIB)
        return CodeTree(
            tree.name,
            tree.files,
            revision=version,
            licence="PSF-2.0",
            left_out=tree.left_out,
            notices=_ignored(section),
        )
    place = _place(section)
    if place.revision is not None:
        return commit_tree(place.root, place.target, place.revision)
    if place.root.suffix == ".whl":
        tree = wheel_tree(place.root, place.target)
    elif section.code.tracked_only and place.root.is_dir() and is_checkout(place.root):
        tree = checkout_tree(place.root, place.target)
    else:
        tree = folder_tree(place.root, place.target)
    tree.notices.extend(_ignored(section))
    return tree


def commit_named(section: DataSection) -> str | None:
    """The commit that a source names by its revision; None where it names none.

    Raises:
        DataError: there is nothing of the kind.
    """
    place = _place(section)
    if place.revision is None:
        return None
    try:
        return commit_of(place.root, place.revision)
    except GitFailed:
        return place.revision


def _place(section: DataSection) -> _Place:
    """The path and the revision: ``PATH@REVISION`` where PATH alone is a checkout."""
    target = section.source.removeprefix("code:")
    root = local_path(target)
    before, at, after = target.rpartition("@")
    if target and _exists(root):
        of_git = root.is_dir() and is_checkout(root)
        return _Place(target, _checked(root, target), section.revision if of_git else None)
    folder = local_path(before)
    if at and after and before and folder.is_dir() and is_checkout(folder):
        if section.revision not in (None, after):
            raise DataError(
                "two revisions are named",
                received=f"{target}, and data.revision {section.revision}",
                accepted="one of the two",
                next_step="leave data.revision away",
            )
        return _Place(before, folder, after)
    return _Place(target, _checked(root, target), None)


def _checked(root: Path, target: str) -> Path:
    is_code = root.is_dir() or (root.is_file() and root.suffix in (".py", ".pyi", ".whl"))
    if target and is_code:
        return root
    raise DataError(
        "this is no folder, no Python file and no wheel"
        if target and _exists(root)
        else "there is no such folder, Python file or wheel",
        received=f"code:{target}",
        accepted="code:stdlib, code:FOLDER, code:FILE.py, code:FILE.whl, or"
        " code:CHECKOUT@REVISION for a git checkout",
        next_step="check the path; a recipe's paths start at its folder, --set's at yours",
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _ignored(section: DataSection) -> list[str]:
    if section.revision is None:
        return []
    return [f"data.revision {section.revision!r} is ignored: the code is no git checkout"]
