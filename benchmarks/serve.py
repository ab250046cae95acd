"""What a server does under load, on loopback: speed at 1, 8 and 32 clients, and a mixed load.

speed   every client streams answers one after the other; tokens a second over all of them, and
        p50, p95, p99 of an answer's time and of its first token's.  ``transformers serve`` is
        measured in the same run with the same base model, where it starts.
mixed   good, bad, slow and aborted requests at once; afterwards nothing may be left: no active
        request, no open descriptor, no growing memory, and no good request may have failed.

    python benchmarks/serve.py --tiny                     # a tiny model, made on the spot
    python benchmarks/serve.py --run runs/demo            # a run of yours
    python benchmarks/serve.py --tiny --requests 10000 --no-peer

Servers are started on free ports of 127.0.0.1 and stopped at the end; nothing else is asked.
Prints one JSON line per measurement and a table; exits with 1 where the mixed load left
something behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from mixed_load import HOST, QUESTIONS, Served, mixed_load

BIN = Path(sys.executable).parent
START_SECONDS = 180
SECONDS_A_CLIENT_COUNT = 240


@dataclass
class Times:
    """What was measured at one number of clients, in seconds."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    failed: int = 0


# -- servers ------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def started(name: str, command: list[str], port: int) -> Iterator[Served]:
    """A server in a process group of its own; ends with the block."""
    log = Path(tempfile.mkstemp(prefix="serve-benchmark-")[1])
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip
        try:
            wait_for(process, port, log)
            yield Served(name, port, psutil.Process(process.pid), [])
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.unlink()


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(log.read_text(errors="replace")[-2000:])
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"no server at {port} after {START_SECONDS} s")


@contextlib.contextmanager
def ours(run: Path, engine: str) -> Iterator[Served]:
    port = free_port()
    command = [str(BIN / "veritune"), "serve", str(run), "--port", str(port), "--engine", engine]
    with started(f"veritune ({engine})", command, port) as served:
        served.models = ["base", run.resolve().name]
        yield served


@contextlib.contextmanager
def peer(model: Path) -> Iterator[Served]:
    port = free_port()
    command = [str(BIN / "transformers"), "serve", str(model), "--host", HOST, "--port", str(port)]
    with started("transformers serve", [*command, "--device", "cpu"], port) as served:
        served.models = [str(model)]
        yield served


def tiny_run(folder: Path) -> tuple[Path, Path]:
    """(run, model folder) of a tiny Llama, trained on a few rows."""
    sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]
    from tiny_models import build_model

    model = build_model("llama", folder / "model", size=64)
    rows = [{"instruction": f"print {n}", "output": f"print({n})\n"} for n in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "output_dir": str(folder / "tiny"),
        "model": {"name_or_path": str(model), "dtype": "float32"},
        "data": {"source": str(folder / "rows.jsonl")},
        "train": {"epochs": 1, "batch_size": 8},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    subprocess.run(
        [str(BIN / "veritune"), "train", str(folder / "recipe.yaml")],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return folder / "tiny", model


def base_folder(run: Path) -> Path | None:
    """Where the base model of a run lies on disk, None if it is no folder."""
    from veritune.model.load import located
    from veritune.run_dir import open_run

    location = Path(located(open_run(run).recipe().model).location)
    return location if location.is_dir() else None


# -- speed --------------------------------------------------------------------------------


async def speed(served: Served, model: str, clients: int, answers: int, tokens: int) -> Times:
    times = Times()
    async with openai.AsyncOpenAI(
        base_url=f"{served.url}/v1", api_key="none", timeout=SECONDS_A_CLIENT_COUNT, max_retries=0
    ) as client:

        async def one(number: int) -> None:
            for turn in range(answers):
                question = QUESTIONS[(number + turn) % len(QUESTIONS)]
                await one_answer(client, model, question, tokens, times)

        async with asyncio.timeout(SECONDS_A_CLIENT_COUNT):
            await asyncio.gather(*(one(number) for number in range(clients)))
    return times


async def one_answer(
    client: openai.AsyncOpenAI, model: str, question: str, tokens: int, times: Times
) -> None:
    began, first, pieces = time.perf_counter(), None, 0
    try:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], max_tokens=tokens,
            temperature=0, stream=True, stream_options={"include_usage": True},
        )  # fmt: skip
        made = None
        async for row in stream:
            if row.choices and row.choices[0].delta.content:
                first = first or time.perf_counter() - began
                pieces += 1
            if row.usage:
                made = row.usage.completion_tokens
    except openai.APIError:
        times.failed += 1
        return
    times.whole.append(time.perf_counter() - began)
    times.first.append(first or times.whole[-1])
    times.tokens += pieces if made is None else made


def measured(
    served: Served, model: str, label: str, clients: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    began = time.perf_counter()
    times = asyncio.run(speed(served, model, clients, arguments.answers, arguments.tokens))
    seconds = time.perf_counter() - began
    row: dict[str, Any] = {
        "measurement": "speed", "server": served.name, "model": label, "clients": clients,
        "tokens_per_second": round(times.tokens / seconds, 1), "answers": len(times.whole),
        "failed": times.failed,
    }  # fmt: skip
    for name, values in (("answer", times.whole), ("first_token", times.first)):
        points = np.percentile(values, [50, 95, 99]) if values else [float("nan")] * 3
        for quantile, value in zip((50, 95, 99), points, strict=True):
            row[f"{name}_p{quantile}_seconds"] = round(float(value), 3)
    return row


# -- everything ---------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, help="a trained run")
    which.add_argument("--tiny", action="store_true", help="train a tiny model first")
    parser.add_argument("--engine", default="continuous")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--answers", type=int, default=2, help="answers to each client")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens of an answer, at most")
    parser.add_argument("--requests", type=int, default=300, help="of the mixed load; 0 for none")
    parser.add_argument("--mixed-tokens", type=int, default=16)
    parser.add_argument(
        "--most-growth-mib",
        type=float,
        default=24.0,
        help="growth of memory in the second half of the mixed load, at most",
    )
    parser.add_argument("--no-peer", action="store_true", help="without transformers serve")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    clean = True

    def note(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    folder = Path(tempfile.mkdtemp(prefix="serve-benchmark-"))
    try:
        run, model = tiny_run(folder) if arguments.tiny else (arguments.run, None)
        model = model or base_folder(run)
        with ours(run, arguments.engine) as served:
            measured(served, "base", "base", 1, argparse.Namespace(answers=1, tokens=4))
            for clients in arguments.clients:
                note(measured(served, "base", "base", clients, arguments))
                note(measured(served, served.models[1], "adapted", clients, arguments))
            if arguments.requests:
                row, clean = mixed_load(
                    served, arguments.requests, arguments.mixed_tokens, arguments.most_growth_mib
                )
                note(row)
        if model is not None and not arguments.no_peer:
            try:
                with peer(model) as served:
                    measured(served, served.models[0], "base", 1,
                             argparse.Namespace(answers=1, tokens=4))  # fmt: skip
                    for clients in arguments.clients:
                        note(measured(served, served.models[0], "base", clients, arguments))
            except (RuntimeError, OSError, TimeoutError) as error:
                note({"measurement": "speed", "server": "transformers serve",
                      "fault": str(error)[-500:]})  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(rows)
    if not clean:
        raise SystemExit("the mixed load left something behind; see its line above")


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="speed on loopback; times in seconds: p50 / p95 / p99")
    for name in ("server", "model", "clients", "tokens/s", "answer", "first token", "failed"):
        table.add_column(name, justify="left" if name in ("server", "model") else "right")
    for row in rows:
        if row["measurement"] != "speed" or "fault" in row:
            continue
        times = [
            " / ".join(f"{row[f'{kind}_p{quantile}_seconds']:.2f}" for quantile in (50, 95, 99))
            for kind in ("answer", "first_token")
        ]
        numbers = (str(row["clients"]), str(row["tokens_per_second"]), *times, str(row["failed"]))
        table.add_row(row["server"], row["model"], *numbers)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
