"""Load a base model and its tokenizer, or say clearly why not."""

from __future__ import annotations

import contextlib
import json
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from veritune.config import ModelSection
from veritune.errors import EnvironmentFault, ModelReferenceError, OutOfMemory, VerituneError
from veritune.model.bundled import DESCRIPTION, bundled_folder
from veritune.model.hardware import Placement, available_bytes
from veritune.model.quantized import FROZEN_BYTES, loading_arguments, refuse_unusable
from veritune.model.references import Reference, resolve_reference

Kind = Literal["causal", "seq2seq"]
# Loading needs a little more than the weights themselves (buffers, file pages).
_LOADING_MARGIN = 1.1


@dataclass
class LoadedModel:
    """A base model, ready.

    Attributes:
        kind: ``causal`` (decoder) or ``seq2seq`` (encoder-decoder).
        description: what a report calls it.
        revision: the hub commit loaded, None for local models.
    """

    model: Any
    tokenizer: Any
    kind: Kind
    reference: Reference
    description: str
    revision: str | None


def located(section: ModelSection) -> Reference:
    """Resolve the reference; the bundled model is unpacked on first use."""
    reference = resolve_reference(section)
    if reference.kind == "bundled":
        return Reference("bundled", reference.name, str(bundled_folder()), notice=reference.notice)
    return reference


def load_config(section: ModelSection) -> Any:
    """The architecture's configuration, without weights."""
    from transformers import AutoConfig

    reference = located(section)
    with _loading_faults(reference):
        return AutoConfig.from_pretrained(
            reference.location,
            trust_remote_code=section.trust_remote_code,
            **reference.load_arguments,
        )


def load_tokenizer(section: ModelSection) -> Any:
    """The tokenizer, with a padding token."""
    from transformers import AutoTokenizer

    reference = located(section)
    with _loading_faults(reference):
        tokenizer = AutoTokenizer.from_pretrained(
            reference.location,
            trust_remote_code=section.trust_remote_code,
            **reference.load_arguments,
        )
    if tokenizer.eos_token_id is None:
        raise ModelReferenceError(
            "the tokenizer has no end-of-sequence token, so no answer could ever end",
            received=reference.name,
            accepted="a tokenizer with eos_token",
            next_step="set eos_token in its tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        # Padding is masked by length, never by id, so sharing the id is safe.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def kind_of(config: Any) -> Kind:
    """Whether a configuration describes a decoder or an encoder-decoder model."""
    return "seq2seq" if getattr(config, "is_encoder_decoder", False) else "causal"


def load_model(section: ModelSection, placement: Placement, *, seed: int = 0) -> LoadedModel:
    """Load the base model in evaluation mode, frozen.

    Raises:
        ModelReferenceError: unknown, unreadable or unsafe reference.
        OutOfMemory: the weights do not fit; said before anything is loaded.
        EnvironmentFault: the hub cannot be reached.
    """
    reference = located(section)
    config = load_config(section)
    kind = kind_of(config)
    refuse_unusable(section, placement)
    _refuse_too_large(section, placement)
    with _loading_faults(reference), _quiet_transformers():
        if section.init == "random":
            model = _build(config, kind, seed).to(placement.dtype)
        else:
            model = _read_weights(reference, section, placement, kind)
    if section.quantization == "none":
        model = model.to(placement.device)
    model = model.eval().requires_grad_(False)
    _plain_generation(model)
    _contiguous_head(model)
    description = DESCRIPTION if reference.kind == "bundled" else reference.name
    if reference.kind == "gguf":
        description += " (GGUF, dequantised)"
    if section.init == "random":
        description += ", random weights"
    return LoadedModel(
        model=model,
        tokenizer=load_tokenizer(section),
        kind=kind,
        reference=reference,
        description=description,
        revision=_commit_of(reference),
    )


def empty_model(section: ModelSection) -> tuple[Any, Kind]:
    """The architecture on the meta device: shapes and counts, no memory."""
    config = load_config(section)
    kind = kind_of(config)
    with (
        _loading_faults(resolve_reference(section)),
        _quiet_transformers(),
        torch.device("meta"),
    ):
        return _auto_class(kind).from_config(config).eval().requires_grad_(False), kind


def _auto_class(kind: Kind) -> Any:
    import transformers

    return (
        transformers.AutoModelForSeq2SeqLM
        if kind == "seq2seq"
        else transformers.AutoModelForCausalLM
    )


def _build(config: Any, kind: Kind, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _auto_class(kind).from_config(config)


def _read_weights(
    reference: Reference, section: ModelSection, placement: Placement, kind: Kind
) -> Any:
    arguments: dict[str, Any] = dict(reference.load_arguments)
    if reference.gguf_file:
        from transformers import GgufConfig

        arguments["quantization_config"] = GgufConfig(dequantize=True)
    else:
        arguments["use_safetensors"] = True
        arguments.update(loading_arguments(section, placement))
    return _auto_class(kind).from_pretrained(
        reference.location,
        dtype=placement.dtype,
        trust_remote_code=section.trust_remote_code,
        **arguments,
    )


def commit_in_cache(section: ModelSection) -> str | None:
    """The hub commit that was read last for this reference; None for local models."""
    return _commit_of(resolve_reference(section))


def _commit_of(reference: Reference) -> str | None:
    """The commit whose files were loaded, from the hub cache's ``snapshots/COMMIT`` folder."""
    if reference.kind != "hub":
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        reference.location, "config.json", revision=reference.revision or "main"
    )
    return Path(found).parent.name if isinstance(found, str) else reference.revision


def _plain_generation(model: Any) -> None:
    """Forget the vendor's sampling settings (penalties, temperatures): decoding is greedy."""
    import transformers

    configuration: Any = transformers.GenerationConfig
    old = model.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    kept = {name: getattr(old, name, None) for name in names}
    model.generation_config = configuration(**kept, use_cache=True)


def _contiguous_head(model: Any) -> None:
    """Give the vocabulary projection contiguous rows.

    On a strided slice such as ``hidden[:, -1:]`` torch multiplies batch by batch and copies
    the whole matrix for each row first: seconds per prompt batch on a CPU.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


def _refuse_too_large(section: ModelSection, placement: Placement) -> None:
    skeleton, _ = empty_model(section)
    n_parameters = sum(p.numel() for p in skeleton.parameters())
    each = FROZEN_BYTES[section.quantization] or placement.dtype.itemsize
    needed = int(n_parameters * each * _LOADING_MARGIN)
    free = available_bytes(placement.device)
    if needed > free:
        smaller = "set model.dtype to bfloat16, or " if placement.dtype == torch.float32 else ""
        raise OutOfMemory(
            f"the weights of {section.name} do not fit in memory",
            received=f"{n_parameters:,} parameters in {placement.dtype_name}:"
            f" {needed / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free"
            f" on {placement.device.type}",
            accepted="a model that fits",
            next_step=f"{smaller}choose a smaller model, or free some memory",
        )


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    import transformers.utils.logging

    hf_logging: Any = transformers.utils.logging
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)


@contextlib.contextmanager
def _loading_faults(reference: Reference) -> Iterator[None]:
    """Turn the loaders' many exceptions into one of ours."""
    try:
        yield
    except VerituneError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(
            "memory ran out while loading the model",
            received=f"{reference.name}: {error}",
            next_step="choose a smaller model, or free some memory",
        ) from error
    except Exception as error:
        logging.getLogger(__name__).debug("loading %s failed", reference.name, exc_info=True)
        raise _explain(reference, error) from error


def _explain(reference: Reference, error: Exception) -> VerituneError:
    names = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    received = f"{reference.name}" + (f" at {reference.revision}" if reference.revision else "")
    if "GatedRepoError" in names:
        return ModelReferenceError(
            "the model is gated: the hub wants a login that may read it",
            received=received,
            next_step="request access on its page, then log in with `hf auth login`",
        )
    if "RevisionNotFoundError" in names:
        return ModelReferenceError(
            "the hub has no such revision of this model",
            received=received,
            accepted="a branch, a tag or a full commit hash",
            next_step="correct model.revision",
        )
    if "RepositoryNotFoundError" in names:
        return ModelReferenceError(
            "the hub has no such model (or it is private)",
            received=received,
            accepted="a hub id (owner/name), a model folder, a .gguf file",
            next_step="check the spelling, or log in with `hf auth login`",
        )
    if reference.kind == "hub" and (
        names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError"}
        or "couldn't connect" in str(error)
        or "offline" in str(error).lower()
    ):
        return EnvironmentFault(
            "the hub cannot be reached and the model is not in the local cache",
            received=received,
            accepted="a connection, a cached model, or a local folder",
            next_step="download the model where there is a network and name its folder, or use"
            " bundled:smollm2-135m",
        )
    return _explain_files(reference, error, names, f"{received}: {first_line}")


def _explain_files(
    reference: Reference, error: Exception, names: set[str], received: str
) -> VerituneError:
    """What is wrong with the files of a model that is there."""
    if reference.kind == "hub" and ("TransportError" in names or _server_failed(error)):
        return EnvironmentFault(
            "a file of the model could not be downloaded whole; what came of it is not used",
            received=reference.name,
            accepted="a hub that answers",
            next_step="try again later: what is there already is kept; or name a local folder",
        )
    if "SafetensorError" in names or isinstance(error, (struct.error, json.JSONDecodeError)):
        return ModelReferenceError(
            "a file of the model is damaged",
            received=received,
            accepted="whole safetensors and JSON files",
            next_step="download or save the model again",
        )
    return ModelReferenceError(
        "the model cannot be loaded",
        received=received,
        accepted="an encoder-decoder or decoder model that transformers knows",
        next_step="`veritune doctor` checks the installation; load it once in plain transformers",
    )


def _server_failed(error: Exception) -> bool:
    codes = (getattr(getattr(link, "response", None), "status_code", 0) for link in _chain(error))
    return any(isinstance(code, int) and code >= 500 for code in codes)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
