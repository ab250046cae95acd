"""Mine question/answer pairs from a code base: ``code:stdlib`` or ``code:PATH``."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import sysconfig
from collections import Counter
from itertools import islice
from pathlib import Path

from veritune.config import DataSection
from veritune.data.function_pairs import pairs_of
from veritune.data.raw_rows import RawRow, RawRows
from veritune.data.source_kind import local_path
from veritune.data.verify_tests import verified
from veritune.errors import DataError
from veritune.progress import Reporter

_MAX_FILE_BYTES = 2**20
_LEFT_OUT_FOLDERS = frozenset(
    {"__pycache__", "build", "dist-packages", "node_modules", "site-packages", "test", "tests"}
)
_LEFT_OUT_OF_STDLIB = frozenset({"ensurepip", "idlelib", "lib2to3", "pydoc_data", "turtledemo"})
_TEST_FILE = re.compile(r"test|tests|conftest|test_.*|.*_tests?", re.IGNORECASE)
_GENERATED = re.compile(
    r"^(?:#|'{3}|\"{3}).*(?:generated (?:by|from|file)|do not edit|@generated)",
    re.IGNORECASE | re.MULTILINE,
)
_HEAD_CHARACTERS = 600


def read_code(section: DataSection, reporter: Reporter) -> RawRows:
    """One pair for each documented function and method, in order of path and line.

    Left out, and counted in ``origin["left_out"]``: tests, generated files, files that do not
    parse, and functions that are private, trivial or without a docstring.

    Raises:
        DataError: the path does not exist, or nothing in it makes a pair.
    """
    target = section.source.removeprefix("code:")
    is_stdlib = target == "stdlib"
    root = Path(sysconfig.get_paths()["stdlib"]) if is_stdlib else _checked_root(target)
    files = [root] if root.is_file() else _python_files(root, is_stdlib=is_stdlib)
    base = root.parent if root.is_file() else root

    left_out: Counter[str] = Counter()
    digest = hashlib.sha256()
    rows: list[RawRow] = []
    n_files = 0
    with reporter.task("read the code", len(files)) as task:
        for path in files:
            task.advance()
            name = os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "replace")
            text, fault = _source_text(path, digest, name)
            if fault:
                left_out[fault] += 1
                continue
            n_files += 1
            rows.extend(pairs_of(text, name, left_out))
            if section.max_rows is not None and len(rows) >= section.max_rows:
                break
    rows = list(islice(rows, section.max_rows))
    if not rows:
        raise _no_pairs(section.source, len(files), left_out)
    rows, examples_of_docstrings, notice = verified(rows, reporter)
    notices = [notice] if notice else []
    if section.revision is not None:
        notices.append(f"data.revision {section.revision!r} is ignored: code is read from disk")
    return RawRows(
        rows,
        {
            "kind": "code",
            "name": f"Python {platform.python_version()} standard library" if is_stdlib else target,
            "revision": platform.python_version() if is_stdlib else None,
            "sha256": digest.hexdigest(),
            "licence": "PSF-2.0" if is_stdlib else None,
            "columns": [],
            "rows_read": len(rows),
            "files_read": n_files,
            "left_out": dict(sorted(left_out.items())),
            "docstring_tests": examples_of_docstrings,
            "notices": notices,
        },
    )


def _checked_root(target: str) -> Path:
    root = local_path(target)
    is_code = root.is_dir() or (root.is_file() and root.suffix in (".py", ".pyi"))
    if not target or not is_code:
        raise DataError(
            "there is no such folder or Python file"
            if not target or not root.exists()
            else "this is no folder and no Python file",
            received=f"code:{target}",
            accepted="code:stdlib, code:FOLDER, or code:FILE.py",
            next_step="check the path; a recipe's paths start at its folder, --set's at yours",
        )
    return root


def _python_files(root: Path, *, is_stdlib: bool) -> list[Path]:
    left_out = _LEFT_OUT_FOLDERS | (_LEFT_OUT_OF_STDLIB if is_stdlib else frozenset())
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if name not in left_out
            and not name.startswith(".")
            and not (Path(folder) / name / "pyvenv.cfg").exists()
        ]
        found += [
            Path(folder) / name
            for name in names
            if name.endswith(".py") and not _TEST_FILE.fullmatch(name.removesuffix(".py"))
        ]
    return sorted(
        (path for path in found if path.is_file() and not path.is_symlink()),
        key=lambda path: path.relative_to(root).as_posix(),
    )


def _source_text(path: Path, digest: hashlib._Hash, name: str) -> tuple[str, str | None]:
    """(text, why the file is left out)."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return "", "files over 1 MiB"
        content = path.read_bytes()
        text = importlib.util.decode_source(content)
    except OSError:
        return "", "files that cannot be opened"
    except (SyntaxError, UnicodeError, LookupError):
        return "", "files of unknown encoding"
    digest.update(f"{name}\0{len(content)}\0".encode())
    digest.update(content)
    if _GENERATED.search(text[:_HEAD_CHARACTERS]):
        return "", "generated files"
    return text, None


def _no_pairs(source: str, n_files: int, left_out: Counter[str]) -> DataError:
    counts = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
    return DataError(
        "no function in it can serve as an example",
        received=f"{source}: {n_files} Python files" + (f"; left out: {counts}" if counts else ""),
        accepted="public functions and methods with a docstring and a body of their own",
        next_step="name a folder of documented Python code",
    )
