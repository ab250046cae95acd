"""A server that is told to stop, and an engine that does not get done in time."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import openai
import pytest
from fake_engine import ANSWERS, END, FakeEngine, make_service, running

from veritune.generate.engine import Request
from veritune.serve.faults import shutting_down
from veritune.serve.gauges import Gauges
from veritune.serve.limits import Limits
from veritune.serve.worker import Worker

QUESTION = [{"role": "user", "content": "Sort a list"}]


@pytest.mark.parametrize(("grace", "pause"), [(30.0, 0.03), (0.3, 0.2)])
def test_running_streams_end_whole_or_with_a_proper_event(
    tmp_path: Path, grace: float, pause: float
) -> None:
    service = make_service(tmp_path, FakeEngine(pause=pause), limits=Limits(grace_seconds=grace))
    begun = threading.Semaphore(0)
    texts: list[str] = []
    faults: list[str | None] = []
    with running(service) as (url, server):

        def listen() -> None:
            text = ""
            with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
                try:
                    for row in client.chat.completions.create(
                        model="tiny", messages=QUESTION, stream=True
                    ):
                        piece = row.choices[0].delta.content or ""
                        if piece and not text:
                            begun.release()
                        text += piece
                    faults.append(None)
                except openai.APIError as error:
                    faults.append(error.code)
            texts.append(text)

        threads = [threading.Thread(target=listen) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=30)
        server.should_exit = True
        for thread in threads:
            thread.join(30)
    if grace > 1:
        assert texts == [ANSWERS["tiny"]] * 3 and faults == [None] * 3
    else:
        assert all(ANSWERS["tiny"].startswith(text) and text for text in texts)
        assert faults == ["shutting_down"] * 3
    assert service.worker.n_inside == 0


def test_what_is_cancelled_together_with_the_stop_is_let_go() -> None:
    engine = FakeEngine(pause=0.2)
    worker = Worker(engine, Gauges(), most_requests=4)

    async def stop_in_mid_step() -> None:
        worker.start()
        names = ("one", "two", "three")
        batch = worker.submit([Request(name, (1,), "tiny", 64, frozenset({END})) for name in names])
        await batch.next()
        # The thread is in its next step: it finds the cancellations and the stop at once.
        worker.end_all(shutting_down())
        await worker.stop()

    asyncio.run(stop_in_mid_step())
    assert sorted(engine.cancelled) == ["one", "three", "two"]
    assert worker.n_inside == 0
