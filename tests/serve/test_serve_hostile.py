"""Clients that send too much, too slowly, from elsewhere, or do not read: the server lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from fake_engine import ANSWERS, FakeEngine, make_service, running, wait_until

from veritune.serve.limits import Limits
from veritune.serve.server import bind, is_loopback
from veritune.serve.service import Service

KEY = "a-key-of-some-length"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Sort a list"}]}
LIMITS = Limits(head_seconds=0.4, body_seconds=0.5, stall_seconds=0.4, connections=40)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(tmp_path_factory.mktemp("served"), limits=LIMITS)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with running(service) as (found, _):
        yield found


def ask(url: str, **changes: Any) -> Any:
    return requests.post(f"{url}/v1/chat/completions", json={**BODY, **changes}, timeout=10)


def is_alive(url: str) -> None:
    answer = ask(url)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == ANSWERS["tiny"]


def connect(url: str) -> socket.socket:
    where = urlsplit(url)
    return socket.create_connection((where.hostname, where.port), 5)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"model": "caf\xe9"}', "application/json"),
        (b"{broken", "application/json"),
        (b"", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"model": "tiny", "seed": ' + b"9" * 5000 + b"}", "application/json"),
        (b"[1, 2]", "application/json"),
        (b"null", "application/json"),
        (b"\xff\xfe\x00", "text/plain"),
    ],
    ids=["not utf-8", "broken", "empty", "deep", "huge number", "list", "null", "plain"],
)
def test_bodies_that_are_no_request(url: str, content: bytes, kind: str) -> None:
    answer = requests.post(
        f"{url}/v1/chat/completions", data=content, headers={"Content-Type": kind}, timeout=10
    )
    assert answer.status_code in (400, 415), answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    is_alive(url)


@pytest.mark.parametrize("chunked", [False, True])
def test_fifty_megabytes_are_refused_in_words(url: str, chunked: bool) -> None:
    content = b'{"model": "tiny", "x": "' + b"a" * (50 << 20) + b'"}'
    before = psutil.Process().memory_info().rss
    data: Any = (content[i : i + 65536] for i in range(0, len(content), 65536))
    answer = requests.post(
        f"{url}/v1/chat/completions",
        data=data if chunked else content,
        headers={"Content-Type": "application/json"},
        timeout=20,
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert psutil.Process().memory_info().rss - before < 40 << 20
    is_alive(url)


def test_heads_and_bodies_that_trickle_are_cut_off(url: str) -> None:
    heads = [connect(url) for _ in range(20)]
    body = connect(url)
    for head in heads:
        head.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    body.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    is_alive(url)
    body.settimeout(5)
    assert b"408" in body.recv(4096).split(b"\r\n")[0]
    for head in heads:
        head.settimeout(5)
        # Closed or reset, whatever is sent in between.
        with contextlib.suppress(ConnectionResetError):
            assert head.recv(4096) == b""
    for connection in (*heads, body):
        connection.close()
    is_alive(url)


@pytest.mark.slow
def test_a_reader_that_stops_reading_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bind_with_little_room(host: str, port: int) -> socket.socket:
        listener = bind(host, port)
        # The system would hold some MiB for the reader, as much as the whole answer.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        return listener

    monkeypatch.setattr("fake_engine.bind", bind_with_little_room)
    text = {"base": "x", "tiny": "y = 'a long answer'\n" * 1200}
    limits = Limits(stall_seconds=0.4, new_tokens=100_000)
    service = make_service(tmp_path, FakeEngine(text, context=None), limits=limits)
    with running(service) as (url, _):
        content = json.dumps({**BODY, "stream": True}).encode()
        sleeper = socket.socket()
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeper.connect((urlsplit(url).hostname, urlsplit(url).port))
        sleeper.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )
        assert sleeper.recv(10).startswith(b"HTTP/1.1 2")
        wait_until(lambda: service.worker.n_inside == 0, 20)
        time.sleep(1)
        assert requests.get(f"{url}/health", timeout=5).json()["active_requests"] == 0
        received = b""
        try:
            while part := sleeper.recv(1 << 16):
                received = received[-100:] + part
        except ConnectionResetError:
            pass
        sleeper.close()
        assert received and b"[DONE]" not in received


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::2]:80", ""]
)
def test_other_host_names_are_an_attack_by_rebinding(url: str, host: str) -> None:
    answer = requests.get(f"{url}/v1/models", headers={"Host": host}, timeout=5)
    assert answer.status_code in (400, 403)
    assert "models" not in answer.text or "error" in answer.text


def test_other_web_sites_may_not_ask(url: str) -> None:
    answer = requests.post(
        f"{url}/v1/chat/completions", json=BODY, headers={"Origin": "http://evil.example"},
        timeout=5,
    )  # fmt: skip
    assert answer.status_code == 403
    asked = requests.options(
        f"{url}/v1/chat/completions",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
        timeout=5,
    )
    for found in (answer, asked, requests.get(f"{url}/v1/models", timeout=5)):
        assert not [name for name in found.headers if name.lower().startswith("access-control")]
    assert ask(url).status_code == 200
    own = requests.post(f"{url}/v1/chat/completions", json=BODY, headers={"Origin": url}, timeout=5)
    assert own.status_code == 200


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Basic " + KEY, "Bearer ", f"bearer x{KEY}"]
)
def test_with_a_key_nothing_is_answered_without_it(tmp_path: Path, header: str | None) -> None:
    service = make_service(tmp_path, api_key=KEY, loopback=False)
    with running(service) as (url, _):
        headers = {} if header is None else {"Authorization": header}
        for method, path in [
            ("post", "/v1/chat/completions"), ("get", "/v1/models"), ("get", "/metrics"),
            ("post", "/page/pairs"), ("get", "/page/info"), ("get", "/openapi.json"),
            ("get", "/nothing"),
        ]:  # fmt: skip
            answer = requests.request(method, url + path, json=BODY, headers=headers, timeout=5)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert requests.get(f"{url}/health", timeout=5).status_code == 200
        assert requests.get(url, timeout=5).status_code == 200
        right = requests.get(
            f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=5
        )
        assert right.status_code == 200


def test_which_addresses_are_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "example.org", ""]))


def test_errors_everywhere_are_error_objects(url: str) -> None:
    for method, path, status in [
        ("get", "/nothing", 404), ("get", "/static/../app.py", 404), ("put", "/v1/models", 405),
        ("get", "/v1/chat/completions", 405), ("get", "/static/index.html%00", 404),
    ]:  # fmt: skip
        answer = requests.request(method, url + path, timeout=5)
        assert answer.status_code == status, path
        assert answer.json()["error"]["message"]


def test_metrics_count_what_happened(url: str, service: Service) -> None:
    ask(url)
    ask(url, model="nobody")
    text = requests.get(f"{url}/metrics", timeout=5).text
    assert 'veritune_requests_total{path="/v1/chat/completions",status="200"}' in text
    assert 'veritune_requests_total{path="/v1/chat/completions",status="404"}' in text
    assert "veritune_active_requests 0.0" in text
    assert 'veritune_tokens_total{kind="completion"}' in text
    assert "veritune_first_token_seconds_count" in text
    assert "nothing" not in text


def test_nothing_is_left_open(url: str, service: Service) -> None:
    process = psutil.Process(os.getpid())
    is_alive(url)
    before = process.num_fds()
    for turn in range(30):
        connection = connect(url)
        content = json.dumps({**BODY, "stream": True}).encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(content)
            + content[: len(content) - turn % 2]
        )
        connection.close()
    wait_until(lambda: process.num_fds() <= before + 1 and service.worker.n_inside == 0, 10)
    is_alive(url)
