"""``veritune export``: write, read back, judge, and only then give the folder its name."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import veritune
from veritune.atomic import atomic_folder, write_json
from veritune.config import ModelSection, Recipe
from veritune.errors import DiskFault, ModelReferenceError, RunDirectoryError
from veritune.export.ctranslate import need_ctranslate2
from veritune.export.formats import QUANTISED, precision_of
from veritune.export.gate import TOLERANCES, Gate, Tolerance, judge, refuse_failed
from veritune.export.gguf_file import refuse_unknown
from veritune.export.merged_folder import MARK, merged_in_fp32
from veritune.export.model_card import write_model_card
from veritune.export.questions import N_QUESTIONS, gate_questions
from veritune.export.readings import HfReader, make_probes, read
from veritune.export.writers import Job, base_precision, published_base, write
from veritune.model.adapter import WEIGHTS
from veritune.model.hardware import Placement, choose_placement
from veritune.model.load import load_config
from veritune.pipeline.trained import TrainedRun, needs_adapter, open_trained
from veritune.progress import Reporter
from veritune.run_dir import RunDirectory, file_sha256

RECORD = "export.json"
_BYTES = {"float32": 4.0, "f32": 4.0, "q8_0": 1.1, "int8": 1.1}
_GGUF_TARGETS = frozenset({"gguf", "ollama"})
# A full disk in the words of safetensors, and of numpy, which gives no number.
_FULL = re.compile(
    rf"os error ({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\b|\d+ requested and \d+ written"
)


def export_run(
    run: RunDirectory,
    recipe: Recipe,
    reporter: Reporter,
    *,
    to: str,
    quantization: str | None = None,
    output: Path | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """Export a trained run; the folder appears whole and judged, or not at all.

    Args:
        quantization: the precision; None for the format's own default.
        output: the folder; None for ``export/FORMAT`` in the run.
        licence: the hub's name of a licence, for the model card.

    Returns:
        The content of ``export.json``, with ``output``.

    Raises:
        RunDirectoryError: the run is not trained, or ``output`` holds something else.
        ModelReferenceError: another base, one that this adapter is folded into already, or an
            architecture that the format does not have.
        GateFailed: the export does not answer as the adapter does.
        DiskFault: it does not fit on the disk; nothing half is left.
    """
    precision = precision_of(to, quantization)
    needs_adapter(run)
    target = output or run.path / "export" / "-".join(filter(None, (to, quantization)))
    _refuse_occupied(target)
    if to == "ct2":
        need_ctranslate2()
    adapter_sha256 = file_sha256(run.adapter / WEIGHTS)
    _refuse_merged_twice(recipe, adapter_sha256)
    placement = _placement(recipe.model)
    with reporter.task("load base and adapter", None):
        trained = open_trained(run, recipe, placement)
    if to in _GGUF_TARGETS:
        refuse_unknown(trained.plain.config)
    precision = base_precision(trained.recipe.model) if precision == "base" else precision
    _refuse_too_little_space(target, trained, to, precision)

    section, encoder = recipe.evaluate, trained.encoder
    limit = section.max_new_tokens
    examples = gate_questions(run, encoder, limit)
    prompts = [encoder.format.prompt(row) for row in examples]
    if len(examples) < N_QUESTIONS:
        reporter.say(
            f"  the gate has {len(examples)} questions, not {N_QUESTIONS}: the run keeps no more"
        )
    adapter, base = (
        HfReader(model, encoder.format, batch_size=section.batch_size)
        for model in (trained.adapted, trained.plain)
    )
    with reporter.task("ask the adapter", None):
        probes = make_probes(adapter, encoder.format, prompts, limit)
        known = [probe.answer for probe in probes]
        adapter_reading = read(adapter, probes, limit, answers=known)
    with reporter.task("ask the base", None):
        base_reading = read(base, probes, limit)

    job = Job(
        trained=trained,
        merged=merged_in_fp32(trained),
        placement=placement,
        precision=precision,
        adapter_sha256=adapter_sha256,
        name=run.path.resolve().name,
        prompts=prompts,
        n_context=max(len(row.prompt_ids) for row in probes) + limit + 1,
        batch_size=section.batch_size,
    )
    gates: list[Gate] = []
    with atomic_folder(target) as folder, _full_disk():
        with reporter.task(f"write {to}{f' ({precision})' if precision else ''}", None):
            written = write(to, job, folder)
        for by, open_reader in written.readers.items():
            with reporter.task(f"ask the export through {by}", None):
                reading = read(open_reader(), probes, limit)
            gate = judge(
                reading,
                adapter_reading,
                base_reading,
                examples,
                tolerance=_tolerance(precision),
                by=by,
                resamples=section.resamples,
                seed=recipe.seed,
            )
            refuse_failed(gate)
            gates.append(gate)
        record = _record(
            trained,
            to=to,
            precision=precision,
            adapter_sha256=adapter_sha256,
            gates=gates,
            notes=written.notes,
        )
        if to == "hub-folder":
            write_model_card(folder, trained, record, licence=licence)
        record["files"] = _files(folder)
        write_json(folder / RECORD, record)
    return {"output": str(target), **record}


def _placement(section: ModelSection) -> Placement:
    """fp32, unless the recipe names a precision: the gate then sees nothing but the export."""
    chosen = choose_placement(section)
    return Placement(chosen.device, torch.float32 if section.dtype == "auto" else chosen.dtype)


def _tolerance(precision: str) -> Tolerance:
    if precision in QUANTISED:
        return TOLERANCES[precision]
    if precision in ("float16", "f16"):
        return TOLERANCES["half"]
    return TOLERANCES["bfloat16" if precision == "bfloat16" else "float32"]


def _record(
    trained: TrainedRun,
    *,
    to: str,
    precision: str,
    adapter_sha256: str,
    gates: list[Gate],
    notes: tuple[str, ...],
) -> dict[str, Any]:
    loaded = trained.loaded
    return {
        "format": to,
        "precision": precision or None,
        "run": trained.run.path.resolve().name,
        "base": {
            "name": published_base(trained),
            # What a local model is called is where it lies.
            "description": loaded.description if loaded.reference.kind != "folder" else "",
            "revision": loaded.revision,
        },
        "adapter_sha256": adapter_sha256,
        "veritune_version": veritune.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "gates": [gate.to_json() for gate in gates],
        "notes": list(notes),
    }


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(item for item in folder.rglob("*") if item.is_file())
    return {
        str(item.relative_to(folder)): {"bytes": item.stat().st_size, "sha256": file_sha256(item)}
        for item in files
    }


def _refuse_occupied(target: Path) -> None:
    if target.is_dir() and (not any(target.iterdir()) or (target / RECORD).is_file()):
        return
    if target.exists():
        raise RunDirectoryError(
            "the output folder holds something that is not an export",
            received=target,
            accepted="a new folder, an empty one, or an earlier export, which is replaced",
            next_step="name another --output",
        )


def _refuse_merged_twice(recipe: Recipe, adapter_sha256: str) -> None:
    known = getattr(load_config(recipe.model), MARK, None)
    if known == adapter_sha256:
        raise ModelReferenceError(
            "this adapter is folded into this model already; merging twice would count it twice",
            received=recipe.model.name,
            accepted="the base model that the adapter was trained on",
            next_step="set model.name_or_path to the base model, or use the merged model as it is",
        )


def _refuse_too_little_space(target: Path, trained: TrainedRun, to: str, precision: str) -> None:
    if to == "peft":
        return
    n_parameters = sum(parameter.numel() for parameter in trained.plain.parameters())
    needed = n_parameters * _BYTES.get(precision, 2.0)
    if to == "ct2":
        needed += n_parameters * 4.0
    parent = target.absolute()
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise DiskFault(
            "the export does not fit on the disk, so it was not begun",
            received=f"{target} ({needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free)",
            accepted="a folder with enough free space",
            next_step="free some space, or name another --output",
        )


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    """Turn what libraries say of a full disk into the operating system's own error."""
    try:
        yield
    except Exception as error:
        found = _FULL.search(str(error))
        if found is None:
            raise
        raise OSError(int(found[1] or errno.ENOSPC), "no space left") from error
