"""Where things live that do not belong to one run."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where Veritune keeps what it can make again: ``$VERITUNE_CACHE`` or the user's cache."""
    chosen = os.environ.get("VERITUNE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "veritune"
