"""Several processes on this machine that train one adapter, each with its share of every batch.

The command's own process is the first: it alone writes files and speaks.  The others are
started for the time of the training stage, one per further CUDA device (gloo on CPUs), and are
told what to do on their standard input.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import IO

import torch

from veritune.config import Recipe
from veritune.errors import EnvironmentFault
from veritune.model.hardware import Placement, core_count
from veritune.progress import Silent
from veritune.run_dir import RunDirectory
from veritune.train.ranks import Ranks, process_count

_JOIN_SECONDS = 600
_END_SECONDS = 60


def placed(placement: Placement, ranks: Ranks) -> Placement:
    """The device of one of the processes."""
    if ranks.size == 1 or placement.device.type != "cuda":
        return placement
    device = torch.device("cuda", ranks.rank)
    torch.cuda.set_device(device)
    return replace(placement, device=device)


@contextlib.contextmanager
def together(
    recipe: Recipe, run: RunDirectory, inputs: str, placement: Placement, stage: str = "train"
) -> Iterator[Ranks]:
    """Start the other processes, and end them with the block.

    Args:
        stage: whose share the others train: ``train`` or ``full_finetune``.

    Raises:
        EnvironmentFault: more processes than CUDA devices or than examples of a batch, or one
            of them failed.
    """
    size = process_count(recipe.train.processes)
    if size == 1:
        yield Ranks()
        return
    refuse_too_many(recipe, placement)
    port = _free_port()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        others = [
            _start(recipe, run, f"{stage}\n{inputs}", (rank, size, port), errors)
            for rank in range(1, size)
        ]
        threads = torch.get_num_threads()
        try:
            with _group(0, size, port, placement):
                try:
                    yield Ranks(0, size)
                except RuntimeError as error:
                    if any(other.poll() not in (None, 0) for other in others):
                        raise _failed(errors) from error
                    raise
            for other in others:
                other.wait(_END_SECONDS)
        finally:
            torch.set_num_threads(threads)
            for other in others:
                if other.poll() is None:
                    other.kill()
                other.wait()


def refuse_too_many(recipe: Recipe, placement: Placement) -> None:
    """Refuse more processes than can share a training here.

    Raises:
        EnvironmentFault: more than devices or than examples of a batch.
    """
    size = process_count(recipe.train.processes)
    if size == 1:
        return
    devices = torch.cuda.device_count() if placement.device.type == "cuda" else core_count()
    most = min(devices, recipe.train.batch_size)
    if size > most:
        raise EnvironmentFault(
            "so many processes cannot share this training",
            received=f"train.processes: {size}, train.batch_size: {recipe.train.batch_size},"
            f" {devices} {placement.device.type} devices",
            accepted=f"1 to {most}, or auto",
            next_step=f"--set train.processes={most}",
        )


def _start(
    recipe: Recipe,
    run: RunDirectory,
    work: str,
    place: tuple[int, int, int],
    errors: IO[str],
) -> subprocess.Popen[str]:
    rank, size, port = place
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, core_count() // size))}
    process = subprocess.Popen(
        [sys.executable, "-m", "veritune.pipeline.processes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    with process.stdin as orders:
        orders.write(f"{run.path}\n{work}\n{rank} {size} {port}\n{recipe.model_dump_json()}")
    return process


@contextlib.contextmanager
def _group(rank: int, size: int, port: int, placement: Placement) -> Iterator[None]:
    if placement.device.type == "cpu":
        torch.set_num_threads(max(1, core_count() // size))
    torch.distributed.init_process_group(
        "nccl" if placement.device.type == "cuda" else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=_JOIN_SECONDS),
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _failed(errors: IO[str]) -> EnvironmentFault:
    errors.seek(0)
    lines = errors.read().strip().splitlines()
    return EnvironmentFault(
        "one of the processes that train together failed",
        received=lines[-1] if lines else "it ended without a word",
        accepted="processes that all reach the end",
        next_step="--set train.processes=1 shows the fault by itself",
    )


def _serve() -> None:
    """Take orders from standard input and train this process's share."""
    from veritune.model.hardware import choose_placement
    from veritune.pipeline.context import Context
    from veritune.pipeline.full_finetune import STAGE, full_share
    from veritune.pipeline.train import train_share

    path, stage, inputs, numbers, described = sys.stdin.read().split("\n", 4)
    rank, size, port = (int(number) for number in numbers.split())
    recipe = Recipe.model_validate_json(described)
    ranks = Ranks(rank, size)
    placement = placed(choose_placement(recipe.model), ranks)
    with _group(rank, size, port, placement):
        context = Context(RunDirectory(Path(path)), recipe, Silent())
        share = full_share if stage == STAGE else train_share
        share(context, inputs, ranks, placement)


if __name__ == "__main__":
    _serve()
