"""What a recipe's ``data.source`` names: a file, a data set of the hub, or a code base."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from veritune.errors import DataError

SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
ACCEPTED = (
    "a .json, .jsonl, .csv (each also .gz) or .parquet file, a hub id such as"
    " owner/name, code:stdlib, or code:PATH"
)

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)

Kind = Literal["file", "hub", "code"]


def kind_of_source(source: str) -> Kind:
    """Decide where a source is read from.

    ``code:`` names code.  What exists on disk, looks like a path, or ends like a data file is
    a file.  ``owner/name`` is a data set of the hub.

    Raises:
        DataError: the source is none of these.
    """
    if source.startswith("code:"):
        return "code"
    if _looks_like_path(source) or _exists(source):
        return "file"
    if _HUB_ID.fullmatch(source):
        return "hub"
    raise DataError(
        "data.source is neither a file here nor a hub id",
        received=source,
        accepted=ACCEPTED,
        next_step="give an existing file, or the full hub id with its owner",
    )


def split_of_hub_id(source: str) -> tuple[str, str | None]:
    """A source without the split named after its hub id (``owner/name:test``), and that split."""
    name, colon, split = source.rpartition(":")
    if colon and split and _HUB_ID.fullmatch(name) and not _exists(source):
        return name, split
    return source, None


def suffix_of(path: Path) -> str | None:
    """The known ending of a data file, in lower case, or None."""
    name = path.name.lower()
    return next((suffix for suffix in reversed(SUFFIXES) if name.endswith(suffix)), None)


def local_path(source: str) -> Path:
    """The path that a source names, ``~`` expanded."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def _looks_like_path(source: str) -> bool:
    return (
        source.startswith((".", "~"))
        or Path(source).is_absolute()
        or suffix_of(Path(source)) is not None
    )


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):
        return False
