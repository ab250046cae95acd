"""Votes of people on pairs of answers, kept in a run's own SQLite file."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from veritune.errors import DiskFault

Choice = Literal["adapted", "base", "tie"]
Side = Literal["left", "right"]

_PATIENCE_SECONDS = 5.0
_TABLE = """
create table if not exists votes (
    vote_id text primary key,
    voted_at text not null,
    question text not null,
    choice text not null check (choice in ('adapted', 'base', 'tie')),
    adapted_side text not null check (adapted_side in ('left', 'right')),
    adapted text not null,
    base text not null,
    adapter_sha256 text not null,
    temperature real not null
)
"""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's choice between two answers whose makers were hidden.

    Attributes:
        adapted_side: where the adapted answer stood.
        adapter_sha256: of the adapter that answered, since a run can be trained anew.
        voted_at: ISO time, UTC.
    """

    question: str
    choice: Choice
    adapted_side: Side
    adapted: str
    base: str
    adapter_sha256: str
    temperature: float = 0.0
    vote_id: str = field(default_factory=lambda: secrets.token_hex(8))
    voted_at: str = field(default_factory=_now)


_COLUMNS = [item.name for item in fields(Vote)]


def add_vote(path: Path, vote: Vote) -> None:
    """Store a vote; what was there stays, whatever goes wrong.

    Raises:
        DiskFault: the file cannot be written.
    """
    names, marks = ", ".join(_COLUMNS), ", ".join("?" for _ in _COLUMNS)
    try:
        with _open(str(path), uri=False) as database, database:
            database.execute(_TABLE)
            # Names of columns are ours; every value goes in as a parameter.
            statement = f"insert into votes ({names}) values ({marks})"  # noqa: S608
            database.execute(statement, astuple(vote))
    except sqlite3.Error as error:
        raise DiskFault(
            "the vote could not be stored",
            received=f"{path}: {error}",
            accepted="a run directory that this user may write",
            next_step="check permissions and free space",
        ) from error


def read_votes(path: Path) -> list[Vote]:
    """Every vote in the order of voting; none where nobody has voted.

    Raises:
        ValueError: the file is not what ``add_vote`` wrote.
    """
    if not path.is_file():
        return []
    try:
        with _open(f"{path.resolve().as_uri()}?mode=ro", uri=True) as database:
            statement = f"select {', '.join(_COLUMNS)} from votes order by voted_at, rowid"  # noqa: S608
            rows = database.execute(statement).fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"not a file of votes: {error}") from error
    votes = [Vote(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]
    if any(vote.choice not in get_args(Choice) for vote in votes):
        raise ValueError("a vote is for neither side")
    return votes


@contextlib.contextmanager
def _open(where: str, *, uri: bool) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(where, timeout=_PATIENCE_SECONDS, uri=uri)
    try:
        yield database
    finally:
        database.close()
