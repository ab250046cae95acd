"""The verb that serves runs over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from veritune.cli.root import app
from veritune.cli.shared import faults
from veritune.errors import EnvironmentFault, InputFault
from veritune.progress import TerminalReporter
from veritune.show.serving import serving

_KEPT_KERNELS = "64"
"""Compiled kernels that oneDNN and torch keep, one for each shape of a batch.  Their own 1024
let a server grow by hundreds of MiB until every shape was met; answers are no slower."""
_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@app.command(epilog="Example: veritune serve runs/demo --port 8000")
def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN [RUN …]", help="Trained runs on one base model."),
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; any but loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")
    ] = 8000,
    engine: Annotated[
        Literal["continuous", "plain", "vllm", "ct2"],
        typer.Option("--engine", help="What decodes; plain is the yardstick, slow."),
    ] = "continuous",
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="VERITUNE_API_KEY",
            show_envvar=True,
            help="What clients must send as Authorization: Bearer KEY.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="New tokens of one answer, at most.")
    ] = 1024,
    max_requests: Annotated[
        int,
        typer.Option(
            "--max-requests", min=1, help="Answers under way or waiting; more are told to wait."
        ),
    ] = 64,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds for one answer, waiting included.")
    ] = 300.0,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="Seconds that running answers have to end at a stop."),
    ] = 10.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line on stdout once it answers.")
    ] = False,
) -> None:
    """Serve runs: an OpenAI-compatible interface, and a page that compares base and adapted."""
    with faults(as_json):
        _refuse_what_is_missing()
        # Read when torch first computes.
        for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
            os.environ.setdefault(name, _KEPT_KERNELS)
        from veritune.serve.engines import load_engine
        from veritune.serve.gauges import Gauges
        from veritune.serve.limits import Limits
        from veritune.serve.server import bind, is_loopback, make_server, url_of
        from veritune.serve.service import Service
        from veritune.serve.worker import Worker

        key = _usable(api_key)
        if not is_loopback(host) and key is None:
            raise InputFault(
                "an address that others can reach needs an API key",
                received=f"--host {host}",
                accepted="127.0.0.1, or --api-key KEY (or VERITUNE_API_KEY)",
                next_step='export VERITUNE_API_KEY="$(openssl rand -hex 24)"',
            )
        with contextlib.closing(bind(host, port)) as listener:
            made, chosen, catalog = load_engine(engine, runs, TerminalReporter())
            limits = dataclasses.replace(
                Limits(),
                new_tokens=max_tokens,
                requests=max_requests,
                request_seconds=timeout,
                grace_seconds=grace,
                choices=min(Limits().choices, max_requests),
            )
            gauges = Gauges()
            service = Service(
                catalog,
                Worker(made, gauges, most_requests=max_requests),
                limits,
                gauges,
                chosen,
                key,
                is_loopback(host),
            )
            facts = {
                "url": url_of(listener),
                "models": list(catalog.names),
                "base": catalog.base,
                "engine": chosen,
                "api_key": key is not None,
                "pid": os.getpid(),
            }

            def ready() -> None:
                serving(facts)
                if as_json:
                    sys.stdout.write(json.dumps(facts) + "\n")
                    sys.stdout.flush()

            make_server(service, ready).run(sockets=[listener])


def _refuse_what_is_missing() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentFault(
            "serving needs packages that are not installed",
            received=", ".join(missing),
            next_step="pip install 'veritune[serve]'",
        )


def _usable(key: str | None) -> str | None:
    if key is None:
        return None
    if not key.strip() or not key.isascii() or not key.isprintable() or " " in key:
        raise InputFault(
            "the API key cannot be sent in a header",
            received=f"{len(key)} characters",
            accepted="printable ASCII without blanks, not empty",
            next_step='export VERITUNE_API_KEY="$(openssl rand -hex 24)"',
        )
    return key
