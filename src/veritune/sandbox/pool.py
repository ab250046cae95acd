"""Many answers at once: in parallel, from the cache where known, twice to catch the flaky."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from veritune.sandbox.cache import ExecutionCache
from veritune.sandbox.judge import execute
from veritune.sandbox.outcome import Execution, Job
from veritune.sandbox.policy import Policy

_UNSETTLED = ("timeout", "infra")
_SEEDS = (0, 1)


class Pool:
    """Runs jobs in the sandbox.

    Every job is run twice, with another hash seed the second time; where the outcomes differ
    it is ``flaky``.  A timeout is only believed of a run that had the machine to itself.

    Args:
        workers: jobs at once; None for one a processor.
        repeat: False runs a job once.
        cache: known executions; None to run everything.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        workers: int | None = None,
        repeat: bool = True,
        cache: ExecutionCache | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self._workers = workers or len(os.sched_getaffinity(0))
        self._seeds = _SEEDS if repeat else _SEEDS[:1]
        self._cache = cache
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self._workers):
            self._slots.put(slot)

    def run(
        self, jobs: Sequence[Job], on_done: Callable[[int], None] | None = None
    ) -> list[Execution]:
        """Run every job; results come in the order of ``jobs``.  Equal jobs run once.

        Args:
            on_done: called with a number of finished distinct jobs.
        """
        distinct = list(dict.fromkeys(jobs))
        known = self._cache.known(distinct, self.policy, len(self._seeds)) if self._cache else {}
        if on_done is not None and known:
            on_done(len(known))
        fresh = [job for job in distinct if job not in known]
        results = dict(known)
        with ThreadPoolExecutor(self._workers) as threads:
            for job, execution in zip(fresh, threads.map(self._settled, fresh), strict=True):
                results[job] = execution
                if on_done is not None and execution.outcome not in _UNSETTLED:
                    on_done(1)
        for job in fresh:
            if results[job].outcome in _UNSETTLED:
                results[job] = self._settled(job)
                if on_done is not None:
                    on_done(1)
        if self._cache:
            new = {job: results[job] for job in fresh if results[job].outcome != "infra"}
            self._cache.keep(new, self.policy, len(self._seeds))
        return [results[job] for job in jobs]

    def _settled(self, job: Job) -> Execution:
        slot = self._slots.get()
        try:
            first = execute(job, self.policy, slot=slot, hash_seed=self._seeds[0])
            if first.outcome in _UNSETTLED:
                return first
            for seed in self._seeds[1:]:
                again = execute(job, self.policy, slot=slot, hash_seed=seed)
                if again.outcome in _UNSETTLED:
                    return again
                if again.outcome != first.outcome:
                    words = f"{first.outcome}, then {again.outcome}"
                    return replace(first, outcome="flaky", detail=words)
            return first
        finally:
            self._slots.put(slot)
