"""How often a test split was read: every adapter ever scored on it, counted.

A test split that steers choices is a validation split; the report prints this number.
"""

from __future__ import annotations

import json
from pathlib import Path

from veritune.atomic import write_json
from veritune.places import cache_folder


def count_reading(test_sha256: str, adapter_sha256: str) -> int:
    """Note that an adapter is scored on a test split; return how many ever were."""
    path = cache_folder() / "test-ledger.json"
    ledger = _read(path)
    readers = ledger.setdefault(test_sha256, [])
    if adapter_sha256 not in readers:
        readers.append(adapter_sha256)
        write_json(path, ledger)
    return len(readers)


def _read(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
