"""Executions that are already known, by everything that could change them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from veritune.places import cache_folder
from veritune.sandbox.interpreter import find_interpreter
from veritune.sandbox.outcome import Execution, Job
from veritune.sandbox.policy import Policy
from veritune.sandbox.process import child_source

_TABLE = "CREATE TABLE IF NOT EXISTS executions (key TEXT PRIMARY KEY, content TEXT NOT NULL)"


class ExecutionCache:
    """Executions in one SQLite file.

    The key is the hash of code, tests, limits, interpreter and the sandbox's own program.
    A file that cannot be read or written costs time, never a result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self, jobs: Iterable[Job], policy: Policy, runs: int) -> dict[Job, Execution]:
        """What is known of these jobs."""
        found: dict[Job, Execution] = {}
        with self._open() as database:
            if database is None:
                return found
            for job in jobs:
                row = database.execute(
                    "SELECT content FROM executions WHERE key = ?", (_key(job, policy, runs),)
                ).fetchone()
                if row is not None:
                    with contextlib.suppress(ValueError, TypeError):
                        found[job] = Execution(**json.loads(row[0]))
        return found

    def keep(self, executions: Mapping[Job, Execution], policy: Policy, runs: int) -> None:
        """Remember executions."""
        rows = [
            (_key(job, policy, runs), json.dumps(asdict(execution)))
            for job, execution in executions.items()
        ]
        with self._open() as database:
            if database is not None:
                database.executemany("INSERT OR REPLACE INTO executions VALUES (?, ?)", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=5)
            connection.execute(_TABLE)
        except (OSError, sqlite3.Error):
            yield None
            return
        try:
            with contextlib.suppress(sqlite3.Error), connection:
                yield connection
        finally:
            connection.close()


def _key(job: Job, policy: Policy, runs: int) -> str:
    parts = [
        asdict(job),
        policy.to_json(),
        runs,
        sys.version,
        find_interpreter().path,
        hashlib.sha256(child_source().encode()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def default_cache() -> ExecutionCache:
    """The user's own cache file."""
    return ExecutionCache(cache_folder() / "executions.sqlite")
