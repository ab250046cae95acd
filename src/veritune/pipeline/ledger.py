"""How often a test split was read: every adapter ever scored on it, counted.

A test split that steers choices is a validation split; the report prints this number.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

from veritune.atomic import disk_faults, write_json
from veritune.errors import DiskFault
from veritune.places import cache_folder

NOT_KEPT = (
    "How many adapters were ever scored on this test set is not known: the list of them in"
    " Veritune's cache folder could not be written."
)


def count_reading(test_sha256: str, adapter_sha256: str) -> int | None:
    """Note that an adapter is scored on a test split; return how many ever were.

    Returns:
        None where the ledger cannot be written: an evaluation that is done is not lost for it.
    """
    path = cache_folder() / "test-ledger.json"
    try:
        with _alone(path):
            ledger = _read(path)
            readers = ledger.setdefault(test_sha256, [])
            if adapter_sha256 not in readers:
                readers.append(adapter_sha256)
                write_json(path, ledger)
            return len(readers)
    except DiskFault:
        return None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: two evaluations that end together must both be counted."""
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _read(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
