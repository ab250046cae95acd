"""The GPU benchmark runs on a CPU in a small size, prints what it promises and writes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/train_gpu.py"


@pytest.mark.slow
def test_the_gpu_benchmark_runs_small_on_a_cpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--steps", "1", "--warm-up", "1",
         "--device", "cpu", "--only", "smollm2"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    keys = {"work", "ours", "peer", "peer_name", "unit", "ratio", "floor_fraction", "device"}
    assert lines and all(set(line) == keys for line in lines)
    assert {line["work"] for line in lines} == {"train/smollm2-135m-b8"}
    assert not list(tmp_path.iterdir())
