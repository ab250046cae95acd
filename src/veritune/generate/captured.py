"""A step as one CUDA graph per batch shape: the processor launches once, not hundreds of times.

A runner's ``step`` reads its rows from buffers that stay in place, asks the host for nothing and
always does the same for the same shape, so what was recorded once can be replayed.  Shapes are
rounded up to a few; rows that are not there compute into free slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_SPAN = 128
"""Spans are rounded up to multiples of this many tokens."""
_WARM_UPS = 2

Step = Callable[[int, int, int | None], torch.Tensor]
Graph = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]
"""Records what a function does and gives what does it again."""


class CapturedStep:
    """Records a step the second time that its shape is asked for, and replays it after that.

    Args:
        step: takes rows, span and the one system of all rows, as ``Runner.step`` does.
        n_slots, capacity: as far as rows and span may be rounded up.
        graph: what records, such as ``cuda_graph()``.
    """

    def __init__(self, step: Step, n_slots: int, capacity: int, graph: Graph) -> None:
        self._step, self._n_slots, self._capacity = step, n_slots, capacity
        self._graph = graph
        self._seen: set[tuple[int, int, int | None]] = set()
        self._recorded: dict[tuple[int, int, int | None], Callable[[], torch.Tensor]] = {}
        self.fault: str | None = None

    def __call__(self, n: int, span: int, only: int | None) -> torch.Tensor:
        """Logits ``[n, vocabulary]``; they are overwritten by the next call of this shape."""
        rows = min(1 << (n - 1).bit_length(), self._n_slots)
        reach = min(-(-span // _SPAN) * _SPAN, self._capacity)
        shape = rows, reach, only
        if shape not in self._recorded:
            if self.fault is not None or shape not in self._seen:
                self._seen.add(shape)
                return self._step(rows, reach, only)[:n]
            try:
                self._recorded[shape] = self._graph(lambda: self._step(rows, reach, only))
            except RuntimeError as error:
                # Eager steps are slower and as right.
                self.fault = str(error).splitlines()[0]
                return self._step(rows, reach, only)[:n]
        return self._recorded[shape]()[:n]


def cuda_graph() -> Graph:
    """Records CUDA graphs that share one pool of memory."""
    pool: Any = torch.cuda.graph_pool_handle()
    stream: Any = torch.cuda.Stream

    def record(step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        side: Any = stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits = step()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay

    return record
