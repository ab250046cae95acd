"""Writing each format into a folder, and running what was written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from veritune.config import ModelSection
from veritune.errors import GateFailed
from veritune.export.ctranslate import CTranslate2Reader, convert, name_missing_tokens
from veritune.export.gguf_file import write_gguf
from veritune.export.gguf_rotation import stretch_as_stored
from veritune.export.launch import modelfile, vllm_script
from veritune.export.llama_cpp import HOW_TO_INSTALL, LlamaCppReader, has_llama_cpp
from veritune.export.merged_folder import write_merged
from veritune.export.readings import HfReader, Reader
from veritune.model.adapter import CONFIG, WEIGHTS, load_adapter
from veritune.model.hardware import Placement
from veritune.model.load import load_config, load_model
from veritune.model.merged import share_weights
from veritune.pipeline.trained import TrainedRun

TRANSFORMERS, CTRANSLATE2, LLAMA_CPP = "transformers", "CTranslate2", "llama.cpp"
BUNDLED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True)
class Job:
    """One export under way.

    Attributes:
        merged: the merged model in fp32.
        precision: as ``--quantization`` names it, ``base`` resolved.
        prompts: the gate's, for comparing tokens.
        n_context: tokens that the longest question and its answer take.
    """

    trained: TrainedRun
    merged: Any
    placement: Placement
    precision: str
    adapter_sha256: str
    name: str
    prompts: list[str]
    n_context: int
    batch_size: int

    @property
    def gguf_name(self) -> str:
        """The GGUF file's name."""
        return f"model-{self.precision}.gguf"


@dataclass(frozen=True)
class Written:
    """What is in the folder now, and who can run it.

    Attributes:
        readers: by what runs the export; each is opened when it is its turn.
        notes: what could not be checked here.
    """

    readers: dict[str, Callable[[], Reader]]
    notes: tuple[str, ...] = ()


def base_precision(section: ModelSection) -> str:
    """The precision of the base model's own files; fp32 where they do not say."""
    named = str(getattr(load_config(section), "dtype", None)).removeprefix("torch.")
    return named if named in _DTYPES else "float32"


def write(target: str, job: Job, folder: Path) -> Written:
    """Write one format into an empty folder."""
    return _WRITERS[target](job, folder)


def _merged(job: Job, folder: Path) -> Written:
    write_merged(
        job.merged,
        job.trained,
        folder,
        dtype=_DTYPES[job.precision],
        adapter_sha256=job.adapter_sha256,
    )
    return Written({TRANSFORMERS: lambda: _folder_reader(job, folder)})


def _peft(job: Job, folder: Path) -> Written:
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(job.trained.run.adapter / name, folder / name)
    job.trained.encoder.format.tokenizer.save_pretrained(folder)

    def reader() -> Reader:
        model = load_adapter(share_weights(job.trained.plain), folder)
        return HfReader(model, job.trained.encoder.format, batch_size=job.batch_size)

    return Written({TRANSFORMERS: reader})


def _vllm(job: Job, folder: Path) -> Written:
    written = _merged(job, folder)
    script = folder / "serve.sh"
    script.write_text(vllm_script(job.name, job.trained.encoder.context_tokens), encoding="utf-8")
    script.chmod(0o755)
    return Written(written.readers, ("served by vLLM: not tried on this machine",))


def _hub(job: Job, folder: Path) -> Written:
    written = _merged(job, folder)
    inside = folder / "adapter"
    inside.mkdir()
    shutil.copyfile(job.trained.run.adapter / WEIGHTS, inside / WEIGHTS)
    config = json.loads((job.trained.run.adapter / CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = published_base(job.trained)
    (inside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return Written(
        written.readers,
        ("the report may name folders of this machine: read it before publishing",),
    )


def published_base(trained: TrainedRun) -> str:
    """What others can call the base model: its hub id, else its name without a folder."""
    reference = trained.loaded.reference
    if reference.kind == "bundled":
        return BUNDLED_HUB_ID
    return reference.name if reference.kind == "hub" else Path(reference.name).name


def _gguf(job: Job, folder: Path) -> Written:
    path = folder / job.gguf_name
    wording = job.trained.encoder.format
    write_gguf(job.merged, wording, path, precision=job.precision, name=job.name)
    readers: dict[str, Callable[[], Reader]] = {TRANSFORMERS: lambda: _gguf_reader(job, path)}
    if not has_llama_cpp():
        note = f"unverified by llama.cpp, which is not installed here ({HOW_TO_INSTALL})"
        return Written(readers, (note,))

    def llama_cpp() -> Reader:
        threads = torch.get_num_threads()
        reader = LlamaCppReader(path, wording, n_context=job.n_context, threads=threads)
        reader.refuse_other_tokens(job.prompts)
        return reader

    return Written({**readers, LLAMA_CPP: llama_cpp})


def _ollama(job: Job, folder: Path) -> Written:
    written = _gguf(job, folder)
    encoder = job.trained.encoder
    text = modelfile(job.gguf_name, encoder.format, encoder.context_tokens)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    return Written(written.readers, (*written.notes, "run by Ollama: not tried on this machine"))


def _ct2(job: Job, folder: Path) -> Written:
    source, made = folder / ".merged", folder / ".converted"
    # From fp32, so that nothing is rounded twice.
    write_merged(
        job.merged,
        job.trained,
        source,
        dtype=torch.float32,
        adapter_sha256=job.adapter_sha256,
    )
    wording = job.trained.encoder.format
    convert(source, made, precision=job.precision)
    name_missing_tokens(made, str(wording.tokenizer.pad_token))
    shutil.rmtree(source)
    for file in made.iterdir():
        file.rename(folder / file.name)
    made.rmdir()
    wording.tokenizer.save_pretrained(folder)
    return Written(
        {CTRANSLATE2: lambda: CTranslate2Reader(folder, wording, threads=torch.get_num_threads())}
    )


_WRITERS: dict[str, Callable[[Job, Path], Written]] = {
    "merged": _merged,
    "peft": _peft,
    "gguf": _gguf,
    "ct2": _ct2,
    "vllm": _vllm,
    "ollama": _ollama,
    "hub-folder": _hub,
}


def _folder_reader(job: Job, folder: Path) -> Reader:
    model = _load(job, folder).model
    return HfReader(model, job.trained.encoder.format, batch_size=job.batch_size)


def _gguf_reader(job: Job, path: Path) -> Reader:
    """The file read back by transformers, weights made whole again.

    Raises:
        GateFailed: its tokenizer or its chat template is not the adapter's.
    """
    loaded = _load(job, path)
    wording = job.trained.encoder.format
    for prompt, wanted in zip(job.prompts, wording.encode_prompts(job.prompts), strict=True):
        found = loaded.tokenizer(prompt, add_special_tokens=not wording.chat)["input_ids"]
        if list(found) != wanted:
            raise GateFailed(
                "the tokenizer in the GGUF file cuts a prompt into other tokens",
                received=f"{list(found)[:20]} for {wanted[:20]}",
                accepted="the tokens that the adapter was trained on",
                next_step="export --to merged, and report this tokenizer",
            )
    if wording.chat and loaded.tokenizer.chat_template != wording.tokenizer.chat_template:
        raise GateFailed(
            "the chat template in the GGUF file is not the base's",
            received=str(loaded.tokenizer.chat_template)[:200],
            next_step="export --to merged, and report this tokenizer",
        )
    stretch_as_stored(loaded.model, path)
    return HfReader(loaded.model, wording, batch_size=job.batch_size)


def _load(job: Job, path: Path) -> Any:
    section = job.trained.recipe.model.model_copy(
        update={"name_or_path": str(path), "revision": None, "init": "pretrained"}
    )
    return load_model(section, job.placement)
