"""Time that a busy machine does not lengthen."""

from __future__ import annotations

import os


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
