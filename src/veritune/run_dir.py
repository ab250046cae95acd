"""The layout of a run directory, its manifest, and which stages are up to date.

``output_dir`` *is* the run directory.  A stage is up to date when the hash of everything
it reads (settings and files) is the one the manifest recorded and its outputs are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from veritune.atomic import disk_faults, write_json, write_text
from veritune.config import Recipe
from veritune.errors import DiskFault, EnvironmentFault, InputFault, OutOfMemory, RunDirectoryError
from veritune.recipe_file import differences, dump_recipe, load_recipe
from veritune.rows import SPLITS

# Settings that may change in a finished run: the stages they feed are simply done again.
# Of `seeds` only the first counts, which trained the main adapter.
_FREE_SECTIONS = (
    "evaluate.",
    "report_to",
    "output_dir",
    "train.full_learning_rate",
    "seeds",
    "sweep.",
    "sweep_search.",
)
_OURS = frozenset(
    {
        "recipe.yaml",
        "manifest.json",
        "data",
        "adapter",
        "full_finetune",
        "train_log.jsonl",
        "checkpoints",
        "predictions",
        "scores.parquet",
        "comparison.json",
        "executions.jsonl",
        "losses.json",
        "samples",
        "benchmarks",
        "report.html",
        "report.md",
        "trackers",
        "seeds",
        "curve",
        "bases",
        "sweep",
        "sweep.html",
        "export",
        "votes.sqlite",
        ".lock",
    }
)


@dataclass(frozen=True)
class RunDirectory:
    """Paths below one run's folder."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def manifest_file(self) -> Path:
        """Hashes, versions, seeds, hardware, per-stage records."""
        return self.path / "manifest.json"

    @property
    def data(self) -> Path:
        """Folder of the three splits and the card."""
        return self.path / "data"

    @property
    def adapter(self) -> Path:
        """The adapter in PEFT's format."""
        return self.path / "adapter"

    @property
    def adapter_weights(self) -> Path:
        """The adapter's tensors."""
        return self.adapter / "adapter_model.safetensors"

    @property
    def votes(self) -> Path:
        """What people preferred on the page of `veritune serve`."""
        return self.path / "votes.sqlite"

    @property
    def full_finetune(self) -> Path:
        """The fully fine-tuned model, where that system is compared."""
        return self.path / "full_finetune"

    @property
    def train_log(self) -> Path:
        """One JSON event a line."""
        return self.path / "train_log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of resumable states."""
        return self.path / "checkpoints"

    @property
    def predictions(self) -> Path:
        """Folder of one JSONL file per system."""
        return self.path / "predictions"

    @property
    def scores(self) -> Path:
        """Every per-example score."""
        return self.path / "scores.parquet"

    @property
    def executions(self) -> Path:
        """What happened to every answer that was run."""
        return self.path / "executions.jsonl"

    @property
    def losses(self) -> Path:
        """Losses of base and adapted model, on questions and on other text."""
        return self.path / "losses.json"

    @property
    def samples(self) -> Path:
        """Folder of sampled answers, one JSONL file per system."""
        return self.path / "samples"

    @property
    def benchmarks(self) -> Path:
        """Folder of answers to benchmarks."""
        return self.path / "benchmarks"

    @property
    def comparison(self) -> Path:
        """The conclusion."""
        return self.path / "comparison.json"

    def split_file(self, split: str) -> Path:
        """The Parquet file of one split."""
        return self.data / f"{split}.parquet"

    def recipe(self, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
        """The resolved recipe of this run, with overrides."""
        return load_recipe(self.recipe_file, overrides)

    # -- manifest -----------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The manifest, empty if there is none yet.

        Raises:
            RunDirectoryError: it is there but is not JSON.
        """
        try:
            content = json.loads(self.manifest_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (ValueError, OSError) as error:
            raise RunDirectoryError(
                "the run's manifest cannot be read",
                received=f"{self.manifest_file}: {error}",
                accepted="the file as Veritune wrote it",
                next_step="restore it, or start again in another output_dir",
            ) from None
        if not isinstance(content, dict):
            raise RunDirectoryError(
                "the run's manifest is not an object",
                received=self.manifest_file,
                next_step="restore it, or start again in another output_dir",
            )
        return content

    def update_manifest(self, **entries: Any) -> None:
        """Replace top-level entries of the manifest."""
        write_json(self.manifest_file, {**self.manifest(), **entries})

    def stage_record(self, stage: str) -> dict[str, Any]:
        """What the manifest knows of a stage, empty if it never finished."""
        record = self.manifest().get("stages", {}).get(stage, {})
        return dict(record)

    def begin_stage(self, stage: str) -> None:
        """Record that a stage's outputs are about to be replaced.

        One that is killed between its files is then done again, whatever it is asked for next.
        """
        if record := self.stage_record(stage):
            stages = {**self.manifest().get("stages", {}), stage: {**record, "unfinished": True}}
            self.update_manifest(stages=stages)

    def finish_stage(self, stage: str, inputs_sha256: str, seconds: float, **facts: Any) -> None:
        """Record that a stage finished with these inputs."""
        stages = dict(self.manifest().get("stages", {}))
        stages[stage] = {
            "inputs_sha256": inputs_sha256,
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        }
        self.update_manifest(stages=stages)

    def up_to_date(self, stage: str, inputs_sha256: str, outputs: list[Path]) -> bool:
        """Whether a stage finished with exactly these inputs and its outputs are there."""
        record = self.stage_record(stage)
        if record.get("unfinished") or record.get("inputs_sha256") != inputs_sha256:
            return False
        return all(path.exists() for path in outputs)

    # -- claiming -----------------------------------------------------------------------

    def claim(self, recipe: Recipe) -> None:
        """Make this folder the run directory of ``recipe``.

        Raises:
            RunDirectoryError: it holds something else, or another run.
            DiskFault: it cannot be written.
        """
        with disk_faults(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise RunDirectoryError(
                    "output_dir is a file",
                    received=self.path,
                    accepted="a new folder, an empty one, or this recipe's earlier run",
                    next_step="name another output_dir",
                )
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(
                item.name
                for item in self.path.iterdir()
                if item.name not in _OURS and not item.name.endswith(".tmp")
            )
            is_run = self.recipe_file.exists()
            if strangers and not is_run:
                raise RunDirectoryError(
                    "output_dir holds files that are not a run",
                    received=f"{self.path} ({', '.join(strangers[:4])}"
                    f"{', …' if len(strangers) > 4 else ''})",
                    accepted="a new folder, an empty one, or this recipe's earlier run",
                    next_step="name another output_dir",
                )
        if is_run and self.is_trained():
            self._refuse_another_run(recipe)
        text = dump_recipe(recipe)
        if not is_run or self.recipe_file.read_bytes() != text.encode():
            # Another process may be at work here, by the recipe that stands there now.
            with self.lock():
                write_text(self.recipe_file, text)

    @contextlib.contextmanager
    def recipe_unless_refused(self) -> Iterator[None]:
        """Put a trained run's recipe back if what is done by another one is refused.

        A wrong path would otherwise stay in it, and stop every later verb on the run.  Work
        that memory or the disk stopped was not refused: its settings stay, to go on with.
        """
        kept = self.is_trained() and self.recipe_file.is_file()
        before = self.recipe_file.read_bytes() if kept else b""
        try:
            yield
        except (OutOfMemory, DiskFault):
            raise
        except (InputFault, EnvironmentFault):
            if kept and self.recipe_file.read_bytes() != before:
                with self.lock():
                    write_text(self.recipe_file, before.decode())
            raise

    def is_trained(self) -> bool:
        """Whether there is trained work to lose; before that a recipe may still be corrected."""
        return self.adapter.exists() or any(self.checkpoints.glob("step-*"))

    def changes(self, recipe: Recipe) -> list[tuple[str, Any, Any]]:
        """Where a recipe would train another adapter than this run's own recipe."""
        before = self.recipe()
        changed = [
            (key, old, new)
            for key, old, new in differences(before, recipe)
            if not key.startswith(_FREE_SECTIONS)
        ]
        if before.training_seed != recipe.training_seed and before.seed == recipe.seed:
            changed.append(("the training seed", before.training_seed, recipe.training_seed))
        return changed

    def _refuse_another_run(self, recipe: Recipe) -> None:
        changed = self.changes(recipe)
        if changed:
            shown = "; ".join(
                f"{key}: {old!r} there, {new!r} here" for key, old, new in changed[:5]
            )
            raise RunDirectoryError(
                "output_dir holds another run; resuming it with another recipe is refused",
                received=f"{self.path} ({shown}{'; …' if len(changed) > 4 else ''})",
                accepted="the recipe it was made with (evaluate.* and further seeds may change)",
                next_step="name another output_dir, or undo the difference",
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing this run at the same time.

        Raises:
            RunDirectoryError: another process holds it.
        """
        import fcntl

        with disk_faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunDirectoryError(
                    "another process is working in this run directory",
                    received=self.path,
                    next_step="wait for it to end, or name another output_dir",
                ) from None
            yield
        finally:
            os.close(handle)


def open_run(path: Path) -> RunDirectory:
    """A finished or unfinished run's directory.

    Raises:
        RunDirectoryError: the folder is not a run directory.
    """
    run = RunDirectory(path)
    missing = [f.name for f in (run.recipe_file, run.manifest_file) if not f.is_file()]
    if missing:
        raise RunDirectoryError(
            f"this is not a run directory: it has no {missing[0]}",
            received=path,
            accepted="a folder that `veritune run` or `veritune prepare` wrote, or a recipe file",
            next_step="name the run's output_dir",
        )
    return run


def digest(*parts: Any) -> str:
    """SHA-256 over settings (as canonical JSON) and files (by content)."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            total.update(file_sha256(part).encode())
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
        total.update(b"\0")
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, or of a folder's files in name order."""
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return digest(*[[str(item.relative_to(path)), file_sha256(item)] for item in files])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_files(run: RunDirectory) -> list[Path]:
    """The three data files of a run."""
    return [run.split_file(split) for split in SPLITS]
