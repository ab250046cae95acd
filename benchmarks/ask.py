"""From pressing Enter to the first letter of an answer: ``veritune ask`` in fresh processes.

Every round starts the command anew, as a user does, and waits for the first byte of the answer
on its stdout; the process is then stopped.  A first round, not counted, brings the weights and
the packages into the page cache.  ``import torch`` alone is timed in turn with it: what no
command that computes with torch can go below.

    python benchmarks/ask.py --run runs/mine
    python benchmarks/ask.py --run runs/mine --rounds 11 --base

Seconds by the wall, and processor seconds up to the same moment, which a busy machine changes
less; medians, with the whole range.  Prints JSON lines and a table, and writes nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

QUESTION = "Write a function that returns the largest of a list of numbers."
TARGET_SECONDS = 2.0
COMMAND = "from veritune.cli import main; main()"
FLOOR = "import torch, sys; sys.stdout.write('x')"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--run", type=Path, required=True, help="a trained run")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--base", action="store_true", help="ask the base, not the adapter")
    arguments.add_argument("--question", default=QUESTION)
    chosen = arguments.parse_args()

    ask = ["-c", COMMAND, "ask", str(chosen.run), chosen.question]
    commands = {"import torch": ["-c", FLOOR], "ask": ask + ["--base"] * chosen.base}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(-1, chosen.rounds):
        for name, command in commands.items():
            times = first_byte(command)
            if number >= 0:
                found[name].append(times)
                print(json.dumps({"round": number, "what": name, **named(times)}), flush=True)
    show([summary(name, times) for name, times in found.items()])


def first_byte(arguments: list[str]) -> tuple[float, float]:
    """(seconds by the wall, processor seconds) from the start to the first byte on stdout."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        used = psutil.Process(process.pid).cpu_times()
        process.kill()
        if not first:
            raise SystemExit(process.stderr.read().decode(errors="replace"))
    return seconds, used.user + used.system


def named(times: tuple[float, float]) -> dict[str, float]:
    return {"seconds": round(times[0], 3), "processor_seconds": round(times[1], 3)}


def summary(name: str, times: list[tuple[float, float]]) -> dict[str, Any]:
    wall, used = ([row[place] for row in times] for place in (0, 1))
    row = {
        "benchmark": "ask", "what": name, "n_rounds": len(times),
        "seconds": round(statistics.median(wall), 3), "fastest": round(min(wall), 3),
        "slowest": round(max(wall), 3), "processor_seconds": round(statistics.median(used), 3),
    }  # fmt: skip
    if name == "ask":
        row["within_target"] = row["seconds"] <= TARGET_SECONDS
    print(json.dumps(row), flush=True)
    return row


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"first byte of stdout, fresh processes (target {TARGET_SECONDS:g} s)")
    for name in ("what", "median s", "fastest … slowest", "processor s"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for row in rows:
        spread = f"{row['fastest']:.2f} … {row['slowest']:.2f}"
        median, used = f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}"
        table.add_row(row["what"], median, spread, used)
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
