"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Gauges:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "veritune_requests",
            "Requests answered, by path and status",
            ["path", "status"],
            registry=self._registry,
        )
        self.answers = Counter(
            "veritune_answers",
            "Answers that ended, by why: stop, length, cancelled, timeout, failed",
            ["reason"],
            registry=self._registry,
        )
        self.tokens = Counter(
            "veritune_tokens", "Tokens read and made", ["kind"], registry=self._registry
        )
        self.refused = Counter(
            "veritune_refused", "Requests refused because the queue was full",
            registry=self._registry,
        )  # fmt: skip
        self.engine_failures = Counter(
            "veritune_engine_failures", "Steps of the engine that failed", registry=self._registry
        )
        self.first_token_seconds = Histogram(
            "veritune_first_token_seconds",
            "From admission to the first token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.answer_seconds = Histogram(
            "veritune_answer_seconds",
            "From admission to the last token",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Show a number that is read when somebody asks."""
        Gauge(name, description, registry=self._registry).set_function(read)

    def page(self) -> tuple[bytes, str]:
        """The exposition and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
