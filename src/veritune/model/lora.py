"""LoRA on a base model, through PEFT: W x + (alpha / r) B A x  (Hu et al., 2021).

``A [r, d_in]`` starts random, ``B [d_out, r]`` at zero, so a fresh adapter changes nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from veritune.config import LoraSection
from veritune.errors import RecipeError

_ATTENTION = {
    "t5": ["q", "k", "v", "o"],
    "mt5": ["q", "k", "v", "o"],
    "umt5": ["q", "k", "v", "o"],
    "gpt2": ["c_attn", "attn.c_proj"],
    "gpt_bigcode": ["c_attn", "attn.c_proj"],
    "gpt_neox": ["query_key_value", "attention.dense"],
    "bloom": ["query_key_value", "self_attention.dense"],
    "falcon": ["query_key_value", "self_attention.dense"],
    "phi": ["q_proj", "k_proj", "v_proj", "self_attn.dense"],
    "phi3": ["qkv_proj", "o_proj"],
    "codegen": ["qkv_proj", "out_proj"],
    "bart": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "plbart": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
_ATTENTION_DEFAULT = ["q_proj", "k_proj", "v_proj", "o_proj"]
_MLP = {
    "t5": ["wi", "wi_0", "wi_1", "wo"],
    "mt5": ["wi", "wi_0", "wi_1", "wo"],
    "umt5": ["wi", "wi_0", "wi_1", "wo"],
    "gpt2": ["c_fc", "mlp.c_proj"],
    "gpt_bigcode": ["c_fc", "mlp.c_proj"],
    "gpt_neox": ["dense_h_to_4h", "dense_4h_to_h"],
    "bloom": ["dense_h_to_4h", "dense_4h_to_h"],
    "falcon": ["dense_h_to_4h", "dense_4h_to_h"],
    "phi": ["fc1", "fc2"],
    "phi3": ["gate_up_proj", "down_proj"],
    "codegen": ["fc_in", "fc_out"],
    "bart": ["fc1", "fc2"],
    "plbart": ["fc1", "fc2"],
}
_MLP_DEFAULT = ["gate_proj", "up_proj", "down_proj"]
_INIT: dict[str, bool | str] = {
    "default": True,
    "gaussian": "gaussian",
    "pissa": "pissa",
    "olora": "olora",
}
# Initialisations that change the base weights; their adapter is converted when it is saved.
REBASING_INITS = frozenset({"pissa", "olora"})


@dataclass(frozen=True)
class Covered:
    """One row of the coverage table: the modules of one name.

    Attributes:
        module: name with layer numbers replaced by ``*``.
        count: how many there are; ``adapted``: how many got an adapter.
        r: rank, 0 where there is no adapter.
        parameters: trainable parameters of the row.
    """

    module: str
    count: int
    adapted: int
    r: int
    parameters: int


@dataclass(frozen=True)
class Coverage:
    """What the adapter covers, and what share of the model it trains."""

    rows: tuple[Covered, ...]
    trainable_parameters: int
    total_parameters: int

    @property
    def trainable_percent(self) -> float:
        """Trainable share of all parameters, in percent, four places."""
        return round(100 * self.trainable_parameters / self.total_parameters, 4)

    def to_json(self) -> dict[str, object]:
        """Counts and rows for ``plan --json`` and the manifest."""
        return {
            "trainable_parameters": self.trainable_parameters,
            "total_parameters": self.total_parameters,
            "trainable_percent": self.trainable_percent,
            "coverage": [asdict(row) for row in self.rows],
        }


def attach_lora(model: Any, section: LoraSection, *, seed: int, name: str = "default") -> Any:
    """Put a fresh adapter on a frozen base model; the PEFT model shares its weights.

    Args:
        model: a base model, or a PEFT model that gets one adapter more.
        name: the adapter's in the PEFT model.

    Raises:
        RecipeError: a target matches nothing, or PEFT refuses the combination.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    targets = resolve_targets(model, section)
    task = "SEQ_2_SEQ_LM" if getattr(model.config, "is_encoder_decoder", False) else "CAUSAL_LM"
    config: Any = LoraConfig(
        task_type=task,
        r=section.r,
        lora_alpha=section.alpha,  # type: ignore[arg-type]
        lora_dropout=section.dropout,
        target_modules=targets,
        bias=section.bias,
        use_rslora=section.use_rslora,
        use_dora=section.use_dora,
        init_lora_weights=_INIT[section.init],  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]), peft_notices():
        torch.manual_seed(seed)
        try:
            if isinstance(model, PeftModel):
                model.add_adapter(name, config)
                adapted: Any = model
            else:
                adapted = get_peft_model(model, config, adapter_name=name)
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise RecipeError(
                "PEFT cannot build this adapter",
                received=f"lora: {section.model_dump()}: {str(error).splitlines()[0]}",
                accepted="settings that PEFT supports for this model's modules",
                next_step="change lora.target_modules, lora.init or lora.use_dora",
            ) from error
    if not any(p.requires_grad for p in adapted.parameters()):
        raise RecipeError(
            "the adapter has no trainable parameters",
            received=f"lora.target_modules: {section.target_modules}",
            accepted="targets that match at least one linear module",
            next_step="`veritune plan` prints which modules there are",
        )
    return adapted


def resolve_targets(model: Any, section: LoraSection) -> list[str]:
    """The module names a preset or a list stands for, each of which matches something.

    Raises:
        RecipeError: a name matches no linear module; the nearest ones are named.
    """
    linear = [
        name.removesuffix(".base_layer")
        for name, module in model.named_modules()
        if _is_linear(module) and ".lora_" not in name
    ]
    wanted = _preset(section.target_modules, str(model.config.model_type), model)
    is_preset = isinstance(section.target_modules, str) and wanted != [section.target_modules]
    missing = [name for name in wanted if not any(_matches(path, name) for path in linear)]
    found = [name for name in wanted if name not in missing]
    # A preset lists every spelling an architecture may use; a user's own list is exact.
    if not found or (missing and not is_preset):
        names = sorted({path.rpartition(".")[2] for path in linear})
        bad = missing[0] if missing else section.target_modules
        near = difflib.get_close_matches(str(bad), names, n=2)
        raise RecipeError(
            f"lora.target_modules: {bad!r} matches no linear module of this model",
            received=section.target_modules,
            accepted=f"attention, mlp, all-linear, or names among: {', '.join(names)}",
            next_step=f"did you mean {' or '.join(near)}?" if near else "use a preset",
        )
    return found


def coverage(model: Any) -> Coverage:
    """Which modules of a PEFT model got an adapter, by name with layer numbers folded."""
    totals: dict[str, list[int]] = {}
    for name, module in model.get_base_model().named_modules():
        base = getattr(module, "base_layer", None)
        if base is None and (not _is_linear(module) or "lora_" in name or "base_layer" in name):
            continue
        row = totals.setdefault(re.sub(r"\.\d+\b", ".*", name), [0, 0, 0, 0])
        row[0] += 1
        if base is not None:
            row[1] += 1
            row[2] = max(row[2], *module.r.values())
            row[3] += sum(p.numel() for p in module.parameters() if p.requires_grad)
    parameters = list(model.parameters())
    return Coverage(
        rows=tuple(Covered(name, *counts) for name, counts in totals.items()),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        total_parameters=sum(p.numel() for p in parameters),
    )


def _preset(wanted: str | list[str], model_type: str, model: Any) -> list[str]:
    if isinstance(wanted, list):
        return wanted
    if wanted == "attention":
        return _ATTENTION.get(model_type, _ATTENTION_DEFAULT)
    if wanted == "mlp":
        return _MLP.get(model_type, _MLP_DEFAULT)
    if wanted == "all-linear":
        head = model.get_output_embeddings()
        return sorted(
            {
                name.removesuffix(".base_layer").rpartition(".")[2]
                for name, module in model.named_modules()
                if _is_linear(module) and module is not head and ".lora_" not in name
            }
        )
    return [wanted]


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


@contextlib.contextmanager
def peft_notices() -> Iterator[None]:
    """Silence PEFT where it is no news.

    It corrects Conv1D's fan_in_fan_out by itself and says so; it calls a transformers
    property by its older name; it advises to convert PiSSA adapters while doing just that.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        warnings.filterwarnings("ignore", message=".*changes the base weights.*")
        warnings.filterwarnings("ignore", message="Could not find a config file")
        warnings.filterwarnings("ignore", message=".*was active which is now deleted.*")
        yield
