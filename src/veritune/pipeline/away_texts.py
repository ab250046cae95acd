"""Text that has nothing to do with the training data: prose and code that come with Python."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from veritune.config import ForgettingSection
from veritune.errors import DataError
from veritune.rows import Example

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests"})
_MIN_CHARACTERS = 2_000
_MAX_BYTES = 400_000
_READ_CHARACTERS = 6_000


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of one document, longer than a chunk of tokens will be."""

    kind: str
    document: str
    text: str


def away_passages(
    section: ForgettingSection, train: Sequence[Example], seed: int
) -> tuple[list[Passage], str]:
    """One passage a document, as many of each kind as the section asks for.

    Files that training rows were mined from are left out.

    Returns:
        The passages, and a note on what they are.

    Raises:
        DataError: a file the user named cannot be read.
    """
    if section.texts is not None:
        documents = {"text": _own(section.texts)}
        note = "the text files that the recipe names"
    else:
        mined = {row.source.rpartition(":")[0] for row in train}
        documents = {"prose": _topics(), "code": _library(mined)}
        note = (
            "English prose: Python's own documentation topics; code: files of Python's standard"
            " library that no training row was taken from"
        )
    rng = np.random.default_rng([seed, 17])
    passages = []
    for kind, found in documents.items():
        order = rng.permutation(len(found))[: section.n_chunks]
        for index in order:
            name, text = found[index]
            passages.append(Passage(kind, name, _piece(text, rng)))
    return passages, note


def _piece(text: str, rng: np.random.Generator) -> str:
    """From a line's beginning, far enough from the end to be long."""
    latest = max(0, len(text) - _READ_CHARACTERS)
    start = int(rng.integers(0, latest + 1))
    if start:
        start = text.find("\n", start) + 1
    return text[start : start + _READ_CHARACTERS]


def _topics() -> list[tuple[str, str]]:
    from pydoc_data.topics import topics

    return [
        (name, text) for name, text in sorted(topics.items()) if len(text) >= _MIN_CHARACTERS // 2
    ]


def _library(mined: set[str]) -> list[tuple[str, str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name in mined or _LEFT_OUT & set(path.relative_to(root).parts):
            continue
        try:
            if _MIN_CHARACTERS <= path.stat().st_size <= _MAX_BYTES:
                found.append((name, path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError):
            continue
    return found


def _own(paths: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for name in paths:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                "a text of evaluate.forgetting.texts cannot be read",
                received=f"{name}: {error}",
                accepted="text files in UTF-8",
                next_step="correct the path",
            ) from None
        found += [
            (f"{Path(name).name}:{number}", text[start : start + _READ_CHARACTERS])
            for number, start in enumerate(range(0, len(text), _READ_CHARACTERS))
        ]
    return [(name, text) for name, text in found if text.strip()]
