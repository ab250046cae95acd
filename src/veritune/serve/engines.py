"""The engines that can serve, by name, and how each is loaded with several adapters."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from veritune.config import Recipe
from veritune.errors import EnvironmentFault, ModelReferenceError
from veritune.generate.engine import BASE, Engine
from veritune.model.adapter import OURS, load_adapter
from veritune.model.hardware import choose_placement
from veritune.model.load import LoadedModel, load_model, located
from veritune.model.merged import share_weights
from veritune.model.other_adapters import attach_other, find_adapters
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.pipeline.trained import refuse_another_base
from veritune.progress import Reporter
from veritune.run_dir import RunDirectory
from veritune.serve.catalog import Catalog, open_runs, served

EngineName = Literal["continuous", "plain", "vllm", "ct2"]
OpenedRun = tuple[str, RunDirectory, Recipe]
_PACKAGES = {"vllm": "vllm", "ct2": "ctranslate2"}


@dataclass(frozen=True)
class Loaded:
    """A base model with its runs' adapters, before an engine is chosen."""

    base: LoadedModel
    runs: Sequence[OpenedRun]
    context_tokens: int | None


def load_engine(
    name: EngineName, paths: Sequence[Path], reporter: Reporter
) -> tuple[Engine, str, Catalog]:
    """Check the runs, load their base once and every adapter on it.

    Returns:
        The engine, the name of what it is (plain where continuous does not know the model),
        and the catalogue.

    Raises:
        VerituneError: a run, a model, an adapter or the engine is at fault.
    """
    _refuse_missing(name)
    runs = open_runs(paths)
    first = runs[0][2]
    encoders = [make_encoder(recipe) for _, _, recipe in runs]
    worded = [(*run, encoder.format) for run, encoder in zip(runs, encoders, strict=True)]
    if name == "vllm":
        return (*_vllm(runs, encoders[0], reporter), served(worded, first.model.name))
    with reporter.task(f"loading {first.model.name}", None):
        base = load_model(first.model, choose_placement(first.model), seed=first.seed)
        for _, run, _ in runs:
            refuse_another_base(run, base)
    loaded = Loaded(base, runs, encoders[0].context_tokens)
    with reporter.task(f"loading {len(runs)} adapter{'s' * (len(runs) > 1)}", None):
        engine: Engine | None = None
        if name == "ct2":
            engine = _ct2(loaded, encoders[0])
        elif name == "continuous":
            engine = _continuous(loaded, reporter)
        name = name if engine is not None else "plain"
        engine = engine or _plain(loaded)
    return engine, name, served(worded, base.description)


def _refuse_missing(name: EngineName) -> None:
    package = _PACKAGES.get(name)
    if package is None:
        return
    needed = package if importlib.util.find_spec(package) is None else ""
    if name == "vllm" and not _has_cuda():
        needed = " and ".join(filter(None, (needed, "a CUDA device")))
    if needed:
        raise EnvironmentFault(
            f"the engine {name} needs {needed}, which is not here",
            received=f"--engine {name}",
            accepted="continuous or plain",
            next_step=f"leave --engine out; or export the run (veritune export RUN --to {name})"
            f" and serve it with {package} itself",
        )


def _has_cuda() -> bool:
    return torch.cuda.is_available()


def _vllm(
    runs: Sequence[OpenedRun], encoder: Encoder, reporter: Reporter
) -> tuple[Engine, EngineName]:
    """vLLM reads the base itself, from the files that the first run names."""
    from veritune.serve.vllm_engine import load_vllm

    section = runs[0][2].model
    reference = located(section)
    plain = section.init == "pretrained" and section.quantization == "none"
    if not plain or reference.kind == "gguf" or encoder.kind != "causal":
        raise ModelReferenceError(
            "the engine vllm serves a decoder model from safetensors files",
            received=f"{section.name} ({encoder.kind}, {section.init}, {section.quantization})",
            accepted="a decoder in a folder or on the hub, neither random nor quantised",
            next_step="leave --engine out",
        )
    with reporter.task(f"starting vLLM on {section.name}", None):
        engine = load_vllm(
            reference.location,
            reference.revision,
            {name: run.adapter for name, run, _ in runs},
            dtype=choose_placement(section).dtype_name,
            context_tokens=encoder.context_tokens,
        )
    return engine, "vllm"


def _ct2(loaded: Loaded, encoder: Encoder) -> Engine:
    from veritune.serve.ct2_engine import load_ct2

    if len(loaded.runs) > 1 or encoder.kind != "causal":
        raise ModelReferenceError(
            "the engine ct2 serves one merged decoder beside its base",
            received=f"{len(loaded.runs)} runs on a {encoder.kind} model",
            accepted="one run on a decoder model",
            next_step="serve one run, or leave --engine out",
        )
    ((name, run, _),) = loaded.runs
    return load_ct2(
        BASE,
        name,
        loaded.base.model,
        run.adapter,
        encoder.format.tokenizer,
        context_tokens=loaded.context_tokens,
    )


def _plain(loaded: Loaded) -> Engine:
    """A model for each system, all over the same weights."""
    from veritune.generate.plain import PlainEngine

    models = {BASE: share_weights(loaded.base.model)}
    for name, run, _ in loaded.runs:
        models[name] = load_adapter(share_weights(loaded.base.model), run.adapter)
    return PlainEngine(models, context_tokens=loaded.context_tokens)


def _continuous(loaded: Loaded, reporter: Reporter) -> Engine | None:
    """One model with every adapter attached; None where its decoder does not know the model."""
    from veritune.generate.continuous import ContinuousEngine
    from veritune.generate.runners import why_not

    adapters: dict[str, str] = {}
    base, model = loaded.base, share_weights(loaded.base.model)
    location = base.reference.location or loaded.runs[0][2].model.name
    for number, (name, run, _) in enumerate(loaded.runs):
        if number == 0:
            model, adapters[name] = load_adapter(model, run.adapter), OURS
            continue
        adapters[name] = f"other_{number}"
        (other,) = find_adapters([str(run.adapter)])
        if notice := attach_other(model, other, adapters[name], base=location):
            reporter.say(notice)
    fault = why_not(model, list(adapters.values()))
    if fault is not None:
        reporter.say(f"continuous batching does not know {fault}; serving with the plain engine")
        return None
    return ContinuousEngine(
        model, adapters=adapters, context_tokens=loaded.context_tokens, logprobs=False
    )
