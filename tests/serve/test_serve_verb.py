"""`veritune serve` on real, tiny runs: its faults, its answers, and how it stops."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from test_main_job import invoke, write_recipe
from tiny_models import build_model
from veritune.rows import read_examples, read_predictions

VERITUNE = Path(sys.executable).with_name("veritune")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished runs on one base: ``first`` and ``second``."""
    folder = tmp_path_factory.mktemp("runs")
    model = build_model("llama", folder / "model")
    found = []
    for name, rate in (("first", 3e-2), ("second", 1e-2)):
        (folder / name).mkdir()
        recipe = write_recipe(
            folder / name, model, output_dir=str(folder / "out" / name), train__learning_rate=rate,
            train__epochs=12,
            data__split={"method": "head", "train": 8, "validation": 5, "test": 10},
            evaluate__systems=["baseline", "adapted"],
        )  # fmt: skip
        outcome = invoke("run", recipe)
        assert outcome.exit_code == 0, outcome.stderr
        found.append(folder / "out" / name)
    return found


def fault(code: int, *words: str, of: Any) -> None:
    assert of.exit_code == code, (of.stderr, of.exception)
    assert "Traceback" not in of.stderr and "error:" in of.stderr
    for word in words:
        assert word in of.stderr, of.stderr


def copied(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / run.name)
    return tmp_path / run.name


@pytest.mark.slow
def test_what_cannot_be_served_is_said(runs: list[Path], tmp_path: Path) -> None:
    first, second = runs
    fault(2, "not a run directory", of=invoke("serve", tmp_path / "nowhere", "--port", 0))
    untrained = copied(first, tmp_path)
    shutil.rmtree(untrained / "adapter")
    fault(2, "no adapter yet", "veritune train", of=invoke("serve", untrained, "--port", 0))

    broken = copied(second, tmp_path)
    weights = broken / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for engine in ("plain", "continuous"):
        outcome = invoke("serve", first, broken, "--port", 0, "--engine", engine)
        fault(2, "adapter", str(broken), of=outcome)

    stranger = build_model("llama", tmp_path / "stranger", seed=7)
    recipe = (broken / "recipe.yaml").read_text()
    model = str(first.parents[1] / "model")
    (broken / "recipe.yaml").write_text(recipe.replace(model, str(stranger)))
    outcome = invoke("serve", first, broken, "--port", 0)
    fault(2, "different base models", str(broken), "port of its own", of=outcome)
    fault(2, "trained on another base model", of=invoke("serve", broken, "--port", 0))


@pytest.mark.slow
def test_addresses_ports_and_engines_that_cannot_be(runs: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fault(3, "port is in use", str(port), of=invoke("serve", runs[0], "--port", port))
    fault(2, "needs an API key", of=invoke("serve", runs[0], "--host", "0.0.0.0"))
    fault(2, "cannot be sent", of=invoke("serve", runs[0], "--api-key", "a b"))
    fault(2, "cannot listen", of=invoke("serve", runs[0], "--host", "no.such.host.invalid",
                                        "--api-key", "key"))  # fmt: skip
    fault(3, "vllm", "next:", of=invoke("serve", runs[0], "--engine", "vllm", "--port", 0))
    if importlib.util.find_spec("ctranslate2") is not None:
        fault(2, "one merged decoder", of=invoke("serve", *runs, "--engine", "ct2", "--port", 0))


@contextlib.contextmanager
def served(*arguments: object) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """The verb in a process of its own: (what it said when it was ready, the process)."""
    process = subprocess.Popen(
        [str(VERITUNE), "serve", *map(str, arguments), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line), process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["plain", "continuous"])
def test_served_answers_are_those_of_the_evaluation(runs: list[Path], engine: str) -> None:
    with served(*runs, "--engine", engine) as (facts, process):
        assert facts["models"] == ["base", "first", "second"]
        client = openai.OpenAI(base_url=f"{facts['url']}/v1", api_key="any", max_retries=0)
        test = read_examples(runs[0] / "data" / "test.parquet")[:4]
        found: dict[tuple[str, str], str] = {}

        def ask(model: str, question: str) -> None:
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": question}], temperature=0,
                max_tokens=24,
            )  # fmt: skip
            found[model, question] = answer.choices[0].message.content or ""

        threads = [
            threading.Thread(target=ask, args=(model, row.instruction))
            for row in test
            for model in facts["models"]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for model, run, system in [
            ("base", runs[0], "baseline"), ("first", runs[0], "adapted"),
            ("second", runs[1], "adapted"),
        ]:  # fmt: skip
            raw = {
                r.example_id: r.raw for r in read_predictions(run / f"predictions/{system}.jsonl")
            }
            for row in test:
                assert found[model, row.instruction] == raw[row.example_id]
        answers = [{found[m, row.instruction] for row in test} for m in facts["models"]]
        assert answers[0] != answers[1] != answers[2]

        _stop_in_mid_stream(client, facts["url"], process)


def _stop_in_mid_stream(client: openai.OpenAI, url: str, process: subprocess.Popen[str]) -> None:
    """SIGTERM while two answers stream: both end whole, new ones are turned away."""
    streams: list[Any] = [
        client.completions.create(model="first", prompt="def f", max_tokens=120, stream=True,
                                  temperature=2, seed=seed)
        for seed in (1, 2)
    ]  # fmt: skip
    pieces = [next(stream) for stream in streams]
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
        client.completions.create(model="first", prompt="x", max_tokens=1)
    with contextlib.suppress(requests.ConnectionError):
        assert requests.get(f"{url}/health", timeout=5).status_code == 503
    for first, stream in zip(pieces, streams, strict=True):
        rest = [first, *stream]
        assert rest[-1].choices[0].finish_reason in ("stop", "length")
    assert process.wait(30) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
