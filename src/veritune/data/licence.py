"""The licence of a source, if the source says it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

_NAMES = ("LICENSE", "LICENCE", "COPYING", "UNLICENSE")
_FILE_BYTES = 100_000
_HEAD_CHARACTERS = 4000
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+-]{2,60})")
_MARKS = (
    ("Apache-2.0", r"Apache License,?\s+Version 2\.0"),
    ("AGPL-3.0", r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3"),
    ("LGPL-3.0", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3"),
    ("LGPL-2.1", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 2\.1"),
    ("GPL-3.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 3"),
    ("GPL-2.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 2"),
    ("MPL-2.0", r"Mozilla Public License,?\s+(?:Version|v\.) ?2\.0"),
    ("PSF-2.0", r"PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"),
    ("Unlicense", r"This is free and unencumbered software"),
    ("MIT", r"Permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("ISC", r"Permission to use, copy, modify, and/or distribute this software"),
    ("BSD-3-Clause", r"Redistribution and use in source and binary forms[\s\S]{1,3000}Neither the"),
    ("BSD-2-Clause", r"Redistribution and use in source and binary forms"),
)
_PATTERNS = tuple((name, re.compile(mark, re.IGNORECASE)) for name, mark in _MARKS)


def licence_of(origin: dict[str, Any]) -> dict[str, str | None]:
    """``name`` and ``said_by`` of a source's licence; both None where it is not known.

    A data set's is what its hub card says; a code base's what its ``pyproject.toml`` or its
    licence file says; a data file has none of its own.
    """
    if origin.get("licence"):
        name = str(origin["licence"])
        if origin.get("kind") == "hub":
            return {"name": name, "said_by": "the data set's card on the hub"}
        return {"name": name, "said_by": "its publisher"}
    if origin.get("kind") == "code":
        return _of_code(Path(str(origin.get("name", ""))))
    return {"name": None, "said_by": None}


def _of_code(root: Path) -> dict[str, str | None]:
    """Of the folder, or of the one above it (``code:src`` of a project)."""
    folder = root if root.is_dir() else root.parent
    for place in (folder, folder.absolute().parent):
        declared = _declared(place / "pyproject.toml")
        if declared:
            return {"name": declared, "said_by": "pyproject.toml"}
        for path in _licence_files(place):
            head = _head(path)
            named = _SPDX.search(head)
            if named:
                return {"name": named[1], "said_by": path.name}
            for name, pattern in _PATTERNS:
                if pattern.search(head):
                    return {"name": name, "said_by": path.name}
    return {"name": None, "said_by": None}


def _declared(path: Path) -> str | None:
    try:
        project = tomllib.loads(_text(path)).get("project", {})
        declared = project.get("license") if isinstance(project, dict) else None
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    if isinstance(declared, dict):
        declared = declared.get("text")
    return declared[:80] if isinstance(declared, str) and "\n" not in declared else None


def _licence_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.upper().startswith(_NAMES))
    except OSError:
        return []


def _head(path: Path) -> str:
    return _text(path)[:_HEAD_CHARACTERS]


def _text(path: Path) -> str:
    """The text of a small regular file; empty where it cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _FILE_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
