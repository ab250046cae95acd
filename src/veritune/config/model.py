"""Settings of the base model and its prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from veritune.config.section import Section
from veritune.errors import RecipeError

BUNDLED_MODEL = "bundled:smollm2-135m"


class PromptSection(Section):
    """How a question becomes a prompt."""

    style: Literal["auto", "chat", "plain"] = Field(
        "auto", description="chat uses the tokenizer's chat template; auto: chat if it has one"
    )
    template: str = Field(
        "auto",
        min_length=1,
        description="text with {question} (instruction joined with input), or {instruction} and"
        " {input}; auto: the question alone, with a response marker for plain decoder models",
    )
    system: str | None = Field(
        None, description="system message for chat models; null: the template's own"
    )

    @model_validator(mode="after")
    def _mentions_instruction(self) -> PromptSection:
        if self.template != "auto" and not any(
            mark in self.template for mark in ("{question}", "{instruction}")
        ):
            raise ValueError("the template must contain {question} or {instruction}")
        return self


class ModelSection(Section):
    """The base model."""

    name_or_path: str | list[str] = Field(
        BUNDLED_MODEL,
        description="hub id, folder, .gguf file, or bundled:smollm2-135m; of a list, `run`"
        " chooses the base whose adapter is best on validation",
    )
    revision: str | None = Field(
        None, description="hub revision, best a commit hash; ignored with a notice for local paths"
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained", description="random builds the architecture without weights"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the frozen weights; auto: bfloat16 where the hardware has it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if present")
    quantization: Literal["none", "8bit", "4bit"] = Field(
        "none", description="of the frozen weights, by bitsandbytes (CUDA only)"
    )
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model; leave it off"
    )
    prompt: PromptSection = PromptSection()

    @property
    def name(self) -> str:
        """The one base model.

        Raises:
            RecipeError: there are several and none is chosen yet.
        """
        if isinstance(self.name_or_path, str):
            return self.name_or_path
        raise RecipeError(
            "this needs one base model, and the recipe names several to choose from",
            received=f"model.name_or_path: {self.name_or_path}",
            accepted="one name, or a run directory in which `veritune run` has chosen one",
            next_step="veritune run RECIPE, or --set model.name_or_path=NAME",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every base model named."""
        names = self.name_or_path
        return (names,) if isinstance(names, str) else tuple(names)

    @model_validator(mode="after")
    def _names_are_names(self) -> ModelSection:
        if not self.names or not all(self.names):
            raise ValueError("name_or_path must not be empty")
        if len(set(self.names)) != len(self.names):
            raise ValueError("name_or_path names a base model twice")
        if self.revision is not None and len(self.names) > 1:
            raise ValueError("revision belongs to one base model; several are named")
        return self
