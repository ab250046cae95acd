"""A code base as it is read: files by name, whatever holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_FILE_BYTES = 2**20


class Unreadable(Exception):
    """One file cannot be had; the message is the reason as the data card counts it."""


@dataclass(frozen=True, slots=True)
class CodeFile:
    """One Python file.

    Attributes:
        name: path inside the code base, with slashes.
        read: gives its bytes; raises ``Unreadable``.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class CodeTree:
    """What ``code:`` names.

    Attributes:
        name: as a card shows it.
        files: in order of name.
        package: name of the folder that the files lie in, which their imports may begin with.
        revision: commit or version, where there is one.
        is_walked: whether the files were found on disk, where built copies lie about too.
        facts: what else the card's origin says.
        left_out: counts of what was passed over while looking, and why.
    """

    name: str
    files: list[CodeFile]
    package: str = ""
    revision: str | None = None
    licence: str | None = None
    is_walked: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
