"""What is known of each configuration, and the files that hold it through a kill.

``progress.json`` names the tensor files it belongs to; those are written before it and deleted
after it, so at any moment the two fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from veritune.atomic import atomic_write, write_json
from veritune.errors import RunDirectoryError
from veritune.pipeline.swept import Settings

Status = Literal["waiting", "training", "finished", "stopped", "diverged", "repeated"]
OVER: frozenset[Status] = frozenset({"finished", "stopped", "diverged", "repeated"})


@dataclass
class Result:
    """One configuration: its settings and how it fared.

    Attributes:
        generation: of the search; configurations of one are judged together.
        status: finished: trained to its end; stopped: lost at a rung; repeated: the settings
            of an earlier configuration, whose result it shares.
        reason: why it ended, for the table.
        evaluations: one for each validation, as in ``train_log.jsonl``.
        counts: of tokens and steps, as in a training summary.
        seconds: its share of the time that it trained in company.
        slot, order: where it trains, and when it was put there.
        last, best: names of its tensor files.
    """

    number: int
    settings: Settings
    generation: int
    status: Status = "waiting"
    reason: str = ""
    step: int = 0
    n_steps: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    slot: int | None = None
    order: int = 0
    last: str | None = None
    best: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        return self.status in OVER

    def kept(self, keep: Literal["best", "last"]) -> dict[str, Any]:
        """The validation whose adapter is kept; empty before the first."""
        if not self.evaluations or keep == "last":
            return self.evaluations[-1] if self.evaluations else {}
        return min(self.evaluations, key=lambda row: (row["validation_loss"], row["step"]))

    def loss(self, keep: Literal["best", "last"]) -> float:
        """Validation loss of the adapter that is kept; infinite before the first validation."""
        if self.status == "diverged":
            return math.inf
        return float(self.kept(keep).get("validation_loss", math.inf))


@dataclass
class Progress:
    """A sweep's results on disk, in ``folder``.

    Attributes:
        identity: hash of everything that decides the results.
        judged: for each generation, its rungs that are decided: epochs, losses, who went on.
        slots: for each generation, how many train together.  Who shares a row decides the last
            bits of what everybody learns, and large rates blow those up; so it is kept.
    """

    folder: Path
    identity: str
    results: list[Result] = field(default_factory=list)
    judged: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, identity: str) -> Progress:
        """What was reached before, or nothing.

        Raises:
            RunDirectoryError: a sweep of other data or settings, or a damaged file.
        """
        path = folder / "progress.json"
        for left in folder.rglob(".*.tmp"):
            left.unlink(missing_ok=True)  # of a kill within a write
        if not path.is_file():
            return cls(folder, identity)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = cls(
                folder,
                str(content["identity"]),
                [Result(**row) for row in content["results"]],
                dict(content["judged"]),
                dict(content.get("slots", {})),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                "the sweep's progress cannot be read",
                received=f"{path}: {error}",
                accepted="the file as Veritune wrote it",
                next_step=f"delete {folder} to sweep again, or name another output_dir",
            ) from None
        if found.identity != identity:
            raise RunDirectoryError(
                "output_dir holds a sweep of other settings or data",
                received=f"{folder} ({found.identity[:12]}, now {identity[:12]})",
                accepted="the recipe and data that the sweep was started with",
                next_step=f"name another output_dir, or delete {folder} to sweep again",
            )
        return found

    def save(self) -> None:
        """Write what is known, then drop tensors that nothing names any more."""
        content = {
            "identity": self.identity,
            "judged": self.judged,
            "slots": self.slots,
            "results": [asdict(row) for row in self.results],
        }
        write_json(self.folder / "progress.json", content)
        named = {name for row in self.results for name in (row.last, row.best)}
        for path in self._states.glob("*.safetensors"):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def put(self, result: Result, tensors: dict[str, torch.Tensor]) -> None:
        """Write where a configuration stands; ``save`` makes it count."""
        result.last = f"{result.number:05d}-{result.step:08d}.safetensors"
        plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_write(self._states / result.last) as temporary:
            save_file(plain, temporary)

    def tensors(self, name: str, device: torch.device) -> dict[str, torch.Tensor]:
        """The tensors of a file that a result names.

        They come on ``device``, but for single numbers: AdamW counts its steps on the CPU.

        Raises:
            RunDirectoryError: it is missing or damaged.
        """
        path = self._states / name
        try:
            found = load_file(path)
            return {key: value.to(device) if value.ndim else value for key, value in found.items()}
        except (OSError, SafetensorError) as error:
            raise RunDirectoryError(
                "the state of a configuration is missing or damaged",
                received=f"{path}: {str(error).splitlines()[0]}",
                accepted="the files that the sweep wrote",
                next_step=f"delete {self.folder} to sweep again",
            ) from None

    @property
    def _states(self) -> Path:
        return self.folder / "states"


def ranking(results: Iterable[Result], keep: Literal["best", "last"]) -> list[Result]:
    """Best first: those that trained to their end, then the stopped by how far they came."""
    place: dict[Status, int] = {"finished": 0, "training": 1, "waiting": 1, "stopped": 1}
    return sorted(
        (row for row in results if row.status != "repeated"),
        key=lambda row: (
            place.get(row.status, 2),
            0.0 if row.status == "finished" else -row.step / max(1, row.n_steps),
            row.loss(keep),
            row.number,
        ),
    )
