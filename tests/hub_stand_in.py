"""A stand-in for the model hub on loopback: just enough of its protocol for the real clients.

Serves folders as repositories, each with one commit.  Faults are asked for by path.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repository:
    """One repository: a folder at one commit, reachable as ``main`` too.

    Attributes:
        gated: every request is answered 401 with the hub's gated code.
        older: folders of the commits that ``main`` named before.
        truncated: names of files whose body breaks off half-way.
        stalling: names of files whose body stops half-way while the connection stays open.
        trickling: names of files whose body comes in a few pieces with pauses between them.
        redirected: names of files that are answered by a redirect to another path.
        failing: names of files answered 500.
    """

    folder: Path
    commit: str
    gated: bool = False
    older: dict[str, Path] = field(default_factory=dict)
    truncated: set[str] = field(default_factory=set)
    stalling: set[str] = field(default_factory=set)
    trickling: set[str] = field(default_factory=set)
    redirected: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)

    def files(self) -> list[str]:
        """Paths of its files, sorted."""
        found = (item for item in self.folder.rglob("*") if item.is_file())
        return sorted(str(item.relative_to(self.folder)) for item in found)


@dataclass
class Hub:
    """The server's content and what was asked of it.

    Attributes:
        repositories: by kind (``models`` or ``datasets``) and ``owner/name``.
        requests: ``METHOD path`` of every request.
        closing: set when the server is about to end; those who wait stop waiting.
    """

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, kind: str, name: str, folder: Path, **settings: Any) -> Repository:
        """Serve a folder; its commit is a hash of its content."""
        repository = Repository(folder, _commit(folder), **settings)
        self.repositories[kind, name] = repository
        return repository

    def move(self, kind: str, name: str, folder: Path) -> str:
        """Let ``main`` name a new commit; the old one stays to be had.  Gives the new commit."""
        repository = self.repositories[kind, name]
        repository.older[repository.commit] = repository.folder
        repository.folder, repository.commit = folder, _commit(folder)
        return repository.commit


def _commit(folder: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for item in sorted(folder.rglob("*")):
        if item.is_file():
            digest.update(item.read_bytes())
    return digest.hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free loopback port for the time of a ``with`` block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(with_body=True)

    def log_message(self, *arguments: object) -> None:
        """Keep test output clean."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {self.path}")
        parts = path.strip("/").split("/")
        self._with_body = with_body
        if parts[:1] == ["api"] and len(parts) >= 4 and parts[1] in ("models", "datasets"):
            self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        elif parts[:1] == ["datasets"] and len(parts) > 5 and parts[3] == "resolve":
            self._resolve("datasets", "/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("models", "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._fault(404, "EntryNotFound")

    def _found(self, kind: str, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            # The hub hides whether a private repository exists.
            self._fault(401, "RepoNotFound")
        elif repository.gated:
            self._fault(401, "GatedRepo")
        elif revision in repository.older:
            return replace(repository, folder=repository.older[revision], commit=revision)
        elif revision not in ("main", repository.commit):
            self._fault(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _api(self, kind: str, name: str, rest: list[str]) -> None:
        action, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        repository = self._found(kind, name, revision)
        if repository is None:
            return
        if action == "revision":
            self._json(
                {
                    "_id": "0" * 24,
                    "id": name,
                    "sha": repository.commit,
                    "private": False,
                    "gated": False,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": ["license:mit"],
                    "cardData": {"license": "mit"},
                    "siblings": [{"rfilename": file} for file in repository.files()],
                }
            )
        elif action == "tree":
            below = "/".join(rest[2:])
            entries = [self._entry(repository, file) for file in repository.files()]
            self._json([e for e in entries if e["path"].startswith(below)])
        elif action == "paths-info":
            asked = parse_qs(self._body.decode()).get("paths", [])
            if self._body[:1] == b"{":
                asked = json.loads(self._body)["paths"]
            known = set(repository.files())
            self._json([self._entry(repository, file) for file in asked if file in known])
        else:
            self._fault(404, "EntryNotFound")

    @staticmethod
    def _entry(repository: Repository, file: str) -> dict[str, Any]:
        content = (repository.folder / file).read_bytes()
        return {
            "type": "file",
            "path": file,
            "size": len(content),
            "oid": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
        }

    def _resolve(self, kind: str, name: str, revision: str, file: str) -> None:
        repository = self._found(kind, name, revision)
        if repository is None:
            return
        if file not in repository.files():
            self._fault(404, "EntryNotFound", {"X-Repo-Commit": repository.commit})
            return
        if file in repository.failing:
            self._fault(500, "")
            return
        if file in repository.redirected and not self.path.endswith("?moved"):
            self.send_response(307)
            self.send_header("Location", f"{urlsplit(self.path).path}?moved")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = (repository.folder / file).read_bytes()
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
        }
        start = 0
        requested = self.headers.get("Range", "")
        if requested.startswith("bytes=") and self._with_body:
            start = int(requested.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not self._with_body:
            return
        if file in repository.truncated:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif file in repository.stalling:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.hub.closing.wait(60)
            self.close_connection = True
        elif file in repository.trickling:
            size = len(body) // 4 + 1
            for place in range(0, len(body), size):
                self.wfile.write(body[place : place + size])
                self.wfile.flush()
                self.hub.closing.wait(0.4)  # longer together than a client's patience for one
        else:
            self.wfile.write(body)

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self._with_body:
            self.wfile.write(body)

    def _fault(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": code or "server error"}).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self._with_body:
            self.wfile.write(body)
