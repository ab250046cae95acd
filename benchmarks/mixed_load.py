"""Good, bad, slow and aborted requests to one server at once, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import Any

import openai
import psutil

HOST = "127.0.0.1"
QUESTIONS = [
    "Write a function that returns the largest number of a list.",
    "Read a file and count its words.",
    "Sort a dictionary by its values.",
    "Reverse a string without slicing.",
    "Print the first ten prime numbers.",
]
MIX = {"good": 0.6, "bad": 0.16, "slow": 0.08, "aborted": 0.16}
MIB = 2**20


@dataclass
class Served:
    """A server under test."""

    name: str
    port: int
    process: psutil.Process
    models: list[str]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"


async def mixed(
    served: Served, n_requests: int, clients: int, tokens: int
) -> tuple[Counter[str], list[float]]:
    """(how requests ended, memory in MiB after each tenth of them)."""
    rng = random.Random(0)
    kinds = rng.choices(list(MIX), weights=list(MIX.values()), k=n_requests)
    waiting = iter(list(enumerate(kinds)))
    ended: Counter[str] = Counter()
    memory: list[float] = []
    async with openai.AsyncOpenAI(
        base_url=f"{served.url}/v1", api_key="none", timeout=120, max_retries=0
    ) as client:

        async def work() -> None:
            for number, kind in waiting:
                if number % max(1, n_requests // 10) == 0 and number:
                    memory.append(rss(served))
                try:
                    async with asyncio.timeout(180):
                        result = await DO[kind](client, served, number, tokens)
                except (OSError, TimeoutError, openai.APIError) as error:
                    result = f"failed {type(error).__name__}"
                ended[f"{kind}: {result}"] += 1

        await asyncio.gather(*(work() for _ in range(clients)))
    return ended, [*memory, rss(served)]


async def good(client: openai.AsyncOpenAI, served: Served, number: int, tokens: int) -> str:
    """A whole answer; a full queue is waited out as its header says, like any client would."""
    while True:
        try:
            answer: Any = await client.chat.completions.create(
                model=served.models[number % len(served.models)],
                messages=[{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
                max_tokens=tokens, temperature=0.5, seed=number, stream=number % 2 == 0,
            )  # fmt: skip
            if number % 2 == 0:
                reasons = [row.choices[0].finish_reason async for row in answer]
                reason = reasons[-1]
            else:
                reason = answer.choices[0].finish_reason
            return "ok" if reason in ("stop", "length") else f"failed {reason}"
        except openai.RateLimitError as error:
            await asyncio.sleep(float(error.response.headers["retry-after"]) * 0.2)


BAD = [
    b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}',
    b"{broken", b"\xff\xfe", b"[]", b'{"model": "base", "messages": []}',
    b'{"model": "base", "messages": [{"role": "user", "content": "x"}], "temperature": 9}',
    b'{"model": "base", "prompt": "' + b"x " * 40_000 + b'"}',
]  # fmt: skip


async def bad(_: openai.AsyncOpenAI, served: Served, number: int, __: int) -> str:
    body = BAD[number % len(BAD)]
    path = b"/v1/completions" if b"prompt" in body else b"/v1/chat/completions"
    status = await raw(served, path, body)
    return "ok" if 400 <= status < 500 else f"failed {status}"


async def slow(_: openai.AsyncOpenAI, served: Served, number: int, tokens: int) -> str:
    """A body in five parts with pauses between them; still a good request."""
    body = json.dumps(
        {"model": "base", "prompt": "x =", "max_tokens": max(1, tokens // 4), "seed": number}
    ).encode()
    status = await raw(served, b"/v1/completions", body, pause=0.1)
    return "ok" if status in (200, 429) else f"failed {status}"


async def aborted(client: openai.AsyncOpenAI, served: Served, number: int, tokens: int) -> str:
    """Leaves after the first piece, or before there is one."""
    if number % 2:
        body = json.dumps({"model": "base", "prompt": "x =", "max_tokens": tokens}).encode()
        await raw(served, b"/v1/completions", body, leave=True)
        return "ok"
    try:
        stream = await client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "x"}], max_tokens=tokens,
            stream=True,
        )  # fmt: skip
    except openai.RateLimitError:
        return "ok"
    async for _row in stream:
        break
    await stream.close()
    return "ok"


DO: dict[str, Any] = {"good": good, "bad": bad, "slow": slow, "aborted": aborted}


async def raw(
    served: Served, path: bytes, body: bytes, *, pause: float = 0, leave: bool = False
) -> int:
    """POST by hand; the status, or 0 for who leaves."""
    reader, writer = await asyncio.open_connection(HOST, served.port)
    try:
        writer.write(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (path, len(body))
        )
        step = max(1, -(-len(body) // 5)) if pause else len(body)
        for start in range(0, len(body), step):
            writer.write(body[start : start + step])
            await writer.drain()
            await asyncio.sleep(pause)
        if leave:
            await asyncio.sleep(0.02)
            return 0
        line = await reader.readline()
        await reader.read()
        return int(line.split()[1])
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def rss(served: Served) -> float:
    return float(served.process.memory_info().rss) / MIB


def left_behind(served: Served, fds_before: int) -> dict[str, Any]:
    """What is still there a few seconds after the last request."""
    active, fds = -1.0, -1
    for _ in range(50):
        with urllib.request.urlopen(f"{served.url}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.search(r"^veritune_active_requests (\S+)$", text, re.MULTILINE)
        active = float(found[1]) if found else -1.0
        fds = served.process.num_fds() - fds_before
        if active == 0 and fds <= 2:
            break
        time.sleep(0.3)
    return {"active_requests": active, "more_open_files": fds}


def mixed_load(
    served: Served, n_requests: int, tokens: int, most_growth_mib: float
) -> tuple[dict[str, Any], bool]:
    """What came of a mixed load, and whether it left nothing behind.

    Args:
        tokens: of one answer, at most.
        most_growth_mib: that memory may grow in the second half.
    """
    asyncio.run(mixed(served, 40, 8, tokens))
    time.sleep(1)
    fds = served.process.num_fds()
    began = time.perf_counter()
    ended, memory = asyncio.run(mixed(served, n_requests, 32, tokens))
    seconds = time.perf_counter() - began
    left = left_behind(served, fds)
    failed = sum(count for name, count in ended.items() if "failed" in name)
    row = {
        "measurement": "mixed", "server": served.name, "requests": n_requests,
        "seconds": round(seconds, 1), "ended": dict(sorted(ended.items())), **left,
        "memory_mib": [round(value, 1) for value in memory],
    }  # fmt: skip
    clean = not failed and left["active_requests"] == 0 and left["more_open_files"] <= 2
    # What grows in the first half is caches that fill; a leak grows in the second as well.
    return row, clean and memory[-1] - memory[len(memory) // 2] < most_growth_mib
