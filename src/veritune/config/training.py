"""Settings of the adapter and its optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from veritune.config.section import Section


def _word(value: object) -> object:
    """YAML reads a bare ``on`` as true."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_word)]


class LoraSection(Section):
    """The adapter."""

    r: int = Field(16, ge=1, le=1024, description="rank")
    alpha: float = Field(32, gt=0, description="scaling is alpha / r (alpha / sqrt(r) for rsLoRA)")
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: str | list[str] = Field(
        "attention",
        description="a preset (attention, mlp, all-linear) or module names",
    )
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init: Literal["default", "gaussian", "pissa", "olora"] = "default"


class TrainSection(Section):
    """The optimisation."""

    learning_rate: float = Field(5e-4, gt=0)
    full_learning_rate: float | None = Field(
        None,
        gt=0,
        description="of the full_finetune system; null: learning_rate / 10, since LoRA's best"
        " rate is about ten times that of full fine-tuning (Schulman et al. 2025)",
    )
    batch_size: int = Field(8, ge=1, description="examples per forward pass")
    accumulation_steps: int = Field(1, ge=1, description="forward passes per optimizer step")
    epochs: float = Field(3, gt=0, le=1_000_000)
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0)
    padding: Literal["longest_in_batch", "longest_in_data", "max_length", "packed"] = Field(
        "longest_in_batch",
        description="packed: the examples of a batch in one row without padding (decoder models"
        " and T5)",
    )
    eval_steps: int | None = Field(
        None, ge=1, description="validation loss every N steps; null: once an epoch"
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="stop after this many evaluations without improvement"
    )
    keep: Literal["best", "last"] = Field("best", description="by validation loss")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="save a resumable checkpoint every N steps; null: at evaluations"
    )
    log_steps: int = Field(10, ge=1)
    engine: Literal["auto", "eager", "captured"] = Field(
        "auto",
        description="how steps are made; captured: recorded once and replayed (CUDA); auto:"
        " captured where it can be",
    )
    compile: Switch = Field(
        "auto",
        description="compile each layer before recording (CUDA); auto: for long trainings",
    )
    activation_checkpointing: Switch = Field(
        "auto",
        description="compute activations again instead of keeping them; auto: where they would"
        " not fit in memory",
    )
    processes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="processes that share every batch on this machine; auto: one per CUDA device",
    )
