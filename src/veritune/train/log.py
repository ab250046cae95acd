"""``train_log.jsonl``: one JSON event a line, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from veritune.atomic import disk_faults, write_text


class TrainLog:
    """Appends events; every line is flushed, so a killed run loses none.

    Args:
        path: None writes nothing, for processes beside the first.
    """

    def __init__(self, path: Path | None, *, resume_step: int | None) -> None:
        self.path = path
        if path is None:
            return
        kept = [] if resume_step is None else _events_up_to(path, resume_step)
        write_text(path, "".join(json.dumps(event) + "\n" for event in kept))

    def write(self, event: str, **fields: Any) -> None:
        """Append one event."""
        if self.path is None:
            return
        line = json.dumps({"event": event, **fields}, allow_nan=False)
        with disk_faults(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events of a log; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def _events_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    return [
        event
        for event in read_log(path)
        if event.get("step", 0) <= step and event.get("event") != "end"
    ]
