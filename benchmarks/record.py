"""Record a command in a terminal, as asciinema plays it.

    python benchmarks/record.py docs/ask.cast -- veritune ask runs/demo "Reverse a string." --run
    python benchmarks/record.py docs/session.cast --type "Reverse a string." --type /run \
        --type /quit -- veritune ask runs/demo

Lines given with ``--type`` are typed one after the other, each followed by Enter, whenever the
terminal has been quiet for a while.  Writes the recording (asciicast v2), and prints what was
left on the screen as plain text.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import select
import shutil
import sys
import time
from pathlib import Path

WIDTH, HEIGHT = 88, 30
QUIET_SECONDS = 4.0
KEY_SECONDS = 0.04
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("cast", type=Path)
    arguments.add_argument("--type", action="append", default=[], metavar="LINE")
    arguments.add_argument("command", nargs="+")
    chosen = arguments.parse_args()
    if shutil.which(chosen.command[0]) is None:
        raise SystemExit(f"there is no command {chosen.command[0]}")
    events = recorded(chosen.command, list(chosen.type))
    head = {"version": 2, "width": WIDTH, "height": HEIGHT, "title": " ".join(chosen.command)}
    lines = [json.dumps(row) for row in [head, *events]]
    chosen.cast.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(on_screen("".join(text for _, _, text in events)))


def recorded(command: list[str], typed: list[str]) -> list[tuple[float, str, str]]:
    """(seconds since the start, "o", output) of a command in a terminal of its own."""
    child, terminal = pty.fork()
    if child == 0:
        size = {"COLUMNS": str(WIDTH), "LINES": str(HEIGHT), "TERM": "xterm-256color"}
        os.environ.update(size)
        os.execvp(command[0], command)
    events: list[tuple[float, str, str]] = []
    began = last = time.monotonic()
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            if not data:
                break
            last = time.monotonic()
            events.append((round(last - began, 3), "o", data.decode("utf-8", "replace")))
            if "\x1b[6n" in events[-1][2]:
                # A terminal says where its cursor is when it is asked.
                os.write(terminal, b"\x1b[1;1R")
        elif typed and events and time.monotonic() - last > QUIET_SECONDS:
            for key in [*typed.pop(0), "\r"]:
                os.write(terminal, key.encode())
                time.sleep(KEY_SECONDS)
            last = time.monotonic()
    os.waitpid(child, 0)
    return events


def on_screen(output: str) -> str:
    """What a line looks like in the end: the last that was written on it, without colours."""
    shown = []
    for line in output.replace("\r\n", "\n").split("\n"):
        last = line.rsplit("\r", 1)[-1]
        shown.append(ESCAPE.sub("", last).rstrip())
    return "\n".join(shown)


if __name__ == "__main__":
    main()
