"""Everything needed to go on exactly where a run stopped, without pickle.

A checkpoint is a folder, whole or absent: ``trainable.safetensors`` (the adapter),
``optimizer.safetensors`` (AdamW moments and generator states) and ``state.json``
(position, best so far, hashes).  Only the newest is kept, and the best adapter.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from veritune.atomic import atomic_folder, atomic_write, write_json
from veritune.errors import RunDirectoryError

_BEST = "best.safetensors"
_CUDA_GENERATOR = "generator.cuda"
_CPU_GENERATOR = "generator.cpu"


@dataclass
class TrainState:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        loss_sum, loss_tokens: accumulated since the last evaluation.
        total_loss, total_tokens: accumulated over the run (sums, weighted by token).
        elapsed_seconds: training time so far, over all sittings.
        step_seconds: the part of it spent in optimizer steps, without validation and files.
        inputs_sha256: hash of the settings and data the run was started with.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_tokens: int = 0
    total_loss: float = 0.0
    total_tokens: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    padded_source_tokens: int = 0
    target_tokens: int = 0
    examples: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    elapsed_seconds: float = 0.0
    step_seconds: float = 0.0
    inputs_sha256: str = ""


def trainable_tensors(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that training moves, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, state: TrainState
) -> Path:
    """Write ``folder/step-N`` and drop older ones."""
    target = folder / f"step-{state.step:08d}"
    parameters = trainable_tensors(model)
    with atomic_folder(target) as temporary:
        _save({name: p.detach() for name, p in parameters.items()}, temporary / "trainable")
        moments = {
            f"{key}.{name}": value
            for name, p in parameters.items()
            for key, value in optimizer.state[p].items()
        }
        moments[_CPU_GENERATOR] = torch.get_rng_state()
        if torch.cuda.is_available():
            moments[_CUDA_GENERATOR] = torch.cuda.get_rng_state()
        _save(moments, temporary / "optimizer")
        write_json(temporary / "state.json", asdict(state))
    for older in checkpoints(folder):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


def load_checkpoint(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> TrainState:
    """Restore model, optimizer and generators from a checkpoint folder.

    Raises:
        RunDirectoryError: a file of it is missing, damaged, or of another adapter.
    """
    try:
        state = TrainState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
        weights = load_file(folder / "trainable.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        parameters = trainable_tensors(model)
        if set(weights) != set(parameters):
            raise KeyError("other parameters than this adapter's")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
                optimizer.state[parameter] = {
                    # A fused update reads even its step count from the device.
                    key: moments[f"{key}.{name}"].to(parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        torch.set_rng_state(moments[_CPU_GENERATOR])
        if torch.cuda.is_available() and _CUDA_GENERATOR in moments:
            torch.cuda.set_rng_state(moments[_CUDA_GENERATOR])
    except Exception as error:
        raise RunDirectoryError(
            "the checkpoint cannot be read",
            received=f"{folder}: {str(error).splitlines()[0]}",
            accepted="a checkpoint as Veritune wrote it",
            next_step="delete that folder to start training again",
        ) from error
    return state


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = folder.glob("step-*") if folder.is_dir() else []
    return sorted(item for item in found if (item / "state.json").is_file())


def save_best(folder: Path, model: Any) -> None:
    """Keep the adapter as it is now as the best so far."""
    with atomic_write(folder / _BEST) as temporary:
        tensors = {name: p.detach() for name, p in trainable_tensors(model).items()}
        save_file(_plain(tensors), temporary)


def load_best(folder: Path, model: Any) -> bool:
    """Put the best adapter back, if one was kept."""
    if not (folder / _BEST).is_file():
        return False
    weights = load_file(folder / _BEST)
    with torch.no_grad():
        for name, parameter in trainable_tensors(model).items():
            parameter.copy_(weights[name])
    return True


def _save(tensors: dict[str, torch.Tensor], stem: Path) -> None:
    save_file(_plain(tensors), stem.with_suffix(".safetensors"))


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
