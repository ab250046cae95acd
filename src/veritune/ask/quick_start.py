"""The short way to a first token: a plain Llama and LoRA on a CPU, without transformers.

Whatever is not exactly that (another architecture, a GPU, DoRA, a hub model, damaged files)
is left to the long way, which knows everything and explains its errors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from veritune.ask.asker import Asker
from veritune.config import BUNDLED_MODEL, Recipe
from veritune.generate.engine import BASE
from veritune.run_dir import RunDirectory

_PLAIN_LORA = {"peft_type": "LORA", "bias": "none", "fan_in_fan_out": False}
_ABSENT = (
    "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias",
    "layer_replication", "trainable_token_indices", "target_parameters", "exclude_modules",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_qalora",
    "use_bdlora", "velora_config",
)  # fmt: skip


def quick_asker(run: RunDirectory, recipe: Recipe, adapted: str) -> Asker | None:
    """An asker of base and adapted model, or None if the long way has to be gone.

    Args:
        adapted: name of the adapted system.
    """
    folder = _folder(recipe)
    if folder is None or recipe.model.init != "pretrained":
        return None
    try:
        return _open(run, recipe, folder, adapted)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        # The long way says what is wrong.
        return None


def _folder(recipe: Recipe) -> Path | None:
    """The base model's folder on this disk."""
    name = recipe.model.name
    if name == BUNDLED_MODEL:
        from veritune.model.bundled import bundled_folder

        return bundled_folder()
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


def _open(run: RunDirectory, recipe: Recipe, folder: Path, adapted: str) -> Asker | None:
    from veritune.model.quick_llama import LlamaShape, QuickLlama
    from veritune.model.quick_tokenizer import QuickTokenizer

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape, tokenizer = LlamaShape.read(config), QuickTokenizer.read(folder)
    files = sorted(folder.glob("*.safetensors"))
    if shape is None or tokenizer is None or len(files) != 1:
        return None

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from veritune.generate.plain import PlainEngine
    from veritune.model.fingerprint import tensors_fingerprint
    from veritune.model.hardware import choose_placement
    from veritune.model.prompt import prompt_format

    placement = choose_placement(recipe.model)
    if placement.device.type != "cpu":
        return None
    try:
        stored = load_file(files[0])
        lora = _lora(run)
    except SafetensorError:
        return None
    weights = {name: tensor.to(placement.dtype) for name, tensor in stored.items()}
    known = dict(run.manifest().get("model", {})).get("fingerprint")
    if lora is None or (known and known != tensors_fingerprint(weights.items())):
        return None
    wording = prompt_format(
        recipe.model, tokenizer, "causal", join_input=recipe.data.input == "join"
    )
    engine = PlainEngine(
        {BASE: QuickLlama(shape, weights), adapted: QuickLlama(shape, weights, lora)},
        context_tokens=int(config["max_position_embeddings"]),
    )
    return Asker(engine, wording)


def _lora(run: RunDirectory) -> Any:
    """The run's adapter, if it is a plain LoRA whose every tensor is understood."""
    from safetensors.torch import load_file

    from veritune.model.adapter import CONFIG, WEIGHTS
    from veritune.model.quick_llama import QuickLora

    config = json.loads((run.adapter / CONFIG).read_text(encoding="utf-8"))
    if any(config.get(name) != value for name, value in _PLAIN_LORA.items()):
        return None
    if any(config.get(name) for name in _ABSENT):
        return None
    weights = load_file(run.adapter / WEIGHTS)
    ends = (".lora_A.weight", ".lora_B.weight")
    if not all(name.startswith("base_model.model.") and name.endswith(ends) for name in weights):
        return None
    rank = int(config["r"])
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    return QuickLora(weights, float(scale))
