"""Rows of a sample that hold secrets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from veritune.data.findings.finding import Collector, Finding
from veritune.data.findings.secrets import secret_spans
from veritune.rows import Example

SAMPLED_ROWS = 2000
"""Rows of a sample for what costs more than a glance (secrets: about 0.4 ms a row)."""
_TEXTS = (("instruction", False), ("input", False), ("reference", True))


class Secret(NamedTuple):
    """Where in a row a secret is.

    Attributes:
        text: the field of the example.
    """

    text: str
    start: int
    end: int
    kind: str


def sampled_places(n_rows: int, n_sampled: int = SAMPLED_ROWS) -> Sequence[int]:
    """Places drawn with a fixed seed, in order; all of them where there are no more."""
    if n_rows <= n_sampled:
        return range(n_rows)
    return sorted(random.Random(0).sample(range(n_rows), n_sampled))  # noqa: S311


def secrets_of(example: Example) -> tuple[Secret, ...]:
    """Passwords, keys and tokens in one row."""
    return tuple(
        Secret(name, span.start, span.end, span.kind)
        for name, is_code in _TEXTS
        if (text := getattr(example, name))
        for span in secret_spans(text, is_code=is_code)
    )


class SecretRows:
    """Gathers rows that hold secrets.

    Attributes:
        values: (kind, value) of each secret found.
    """

    def __init__(self) -> None:
        self.values: set[tuple[str, str]] = set()
        self._n_looked_at = 0
        self._collector = Collector(
            "secrets",
            "rows hold passwords, keys or tokens",
            "A model repeats what it has learnt, to anybody who asks. Take them out of the source,"
            " and replace them where they are in use.",
            level="act",
        )

    def add(self, example: Example, secrets: Iterable[Secret]) -> None:
        """Take in a row of the sample."""
        self._n_looked_at += 1
        found = list(secrets)
        if not found:
            return
        self.values.update(
            (secret.kind, getattr(example, secret.text)[secret.start : secret.end])
            for secret in found
        )
        text = getattr(example, found[0].text)
        shown = text[text.rfind("\n", 0, found[0].start) + 1 :]
        self._collector.add(example, [secret.kind for secret in found], shown)

    def finding(self, of_rows: int) -> Finding:
        """What was found, of so many rows of which a sample was looked at."""
        return self._collector.finding(self._n_looked_at, sampled=self._n_looked_at < of_rows)
