"""Requests made up from the server's own OpenAPI document never make it fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fake_engine import FakeEngine, make_service, running
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from veritune.serve.limits import Limits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("served")
    service = make_service(folder, FakeEngine(), limits=Limits(body_seconds=2, head_seconds=2))
    with running(service) as (url, _):
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_no_request_makes_the_server_fail(document: Any) -> None:
    asked: dict[str, int] = {}
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=20, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            # Names that exist, so that what lies behind them is reached, too.
            for name in ("model", "run"):
                if isinstance(case.body, dict) and isinstance(case.body.get(name), str):
                    case.body[name] = "tiny"
            answer = case.call(timeout=20)
            asked[operation.label] = asked.get(operation.label, 0) + 1  # noqa: B023
            case.validate_response(answer, checks=[not_a_server_error])
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"]

        ask()
    assert asked["POST /v1/chat/completions"] >= 10 and len(asked) >= 9


def test_the_document_names_every_route(document: Any) -> None:
    paths = set(document.raw_schema["paths"])
    assert {
        "/v1/models", "/v1/chat/completions", "/v1/completions", "/health", "/metrics",
        "/page/pairs", "/page/run", "/page/votes", "/page/nearest",
    } <= paths  # fmt: skip
