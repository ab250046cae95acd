"""Recording work on a CUDA device once, to replay it with a single launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

WARM_UP_RUNS = 3
"""As PyTorch's notes on CUDA graphs ask for before a capture."""


class Recorder(Protocol):
    """Turns work with fixed addresses into something that can be replayed."""

    def warm_up(self, body: Callable[[], None]) -> None:
        """Run the work a few times, so that all that is set up once is set up."""

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Record the work without doing it; what is returned does it."""


class CudaRecorder:
    """CUDA graphs of one memory pool: they never run at once, so they share what they need."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle()

    def warm_up(self, body: Callable[[], None]) -> None:
        """See ``Recorder``; on a side stream, the one that records."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                body()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """See ``Recorder``."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            body()
        replay: Callable[[], None] = graph.replay
        return replay
