"""Settings of a sweep: what is tried, and how it is searched."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from veritune.config.section import Section
from veritune.config.training import LoraSection, TrainSection

_SECTIONS: dict[str, type[Section]] = {"lora": LoraSection, "train": TrainSection}
# They say how a training is watched, kept, laid out or computed, not what is learned.
_NOT_SEARCHED = frozenset(
    {
        "train.full_learning_rate",
        "train.padding",
        "train.eval_steps",
        "train.keep",
        "train.checkpoint_steps",
        "train.log_steps",
        "train.engine",
        "train.compile",
        "train.activation_checkpointing",
        "train.processes",
    }
)
SEARCHED = tuple(
    key
    for name, section in _SECTIONS.items()
    for field in section.model_fields
    if (key := f"{name}.{field}") not in _NOT_SEARCHED
)
"""The settings that a sweep can try."""

_ALIASES = {"lr": "train.learning_rate", "rank": "lora.r", "lora_alpha": "lora.alpha"}


class RangeSection(Section):
    """All values between two ends; for the methods that draw."""

    low: float
    high: float
    log: bool = Field(False, description="draw evenly over magnitudes: 1e-4, 1e-3, 1e-2")

    @model_validator(mode="after")
    def _ends_make_sense(self) -> RangeSection:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range starts above 0, not at {self.low:g}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether both ends are whole numbers."""
        return self.low.is_integer() and self.high.is_integer()


def draws_whole_numbers(key: str) -> bool:
    """Whether a searched setting takes whole numbers only."""
    section, _, name = key.partition(".")
    try:
        _SECTIONS[section].model_validate({name: 1.5})
    except ValidationError:
        return True
    return False


def _flattened(value: Any) -> Any:
    """``{lora: {r: [2]}}`` as ``{"lora.r": [2]}``, as it may be written too."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[Any, Any] = {}
    for key, inner in value.items():
        if key in _SECTIONS and isinstance(inner, Mapping):
            flat |= {f"{key}.{name}": choices for name, choices in inner.items()}
        else:
            flat[key] = inner
    found: dict[Any, Any] = {}
    faults: list[str] = []
    for key, choices in flat.items():
        found[key], own = _choices(key, choices)
        faults += own
    if faults:
        raise ValueError("\n    ".join(faults))
    return found


def _choices(key: object, item: Any) -> tuple[Any, list[str]]:
    """A list of values or a range, and what is wrong with it."""
    if not isinstance(key, str) or key not in SEARCHED:
        return item, [_unknown(key)]
    if isinstance(item, Mapping):
        try:
            item = RangeSection.model_validate(dict(item))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in (key, *first["loc"]))
            said = str(first["msg"]).removeprefix("Value error, ")
            return item, [f"{where}: {said[:1].lower()}{said[1:]}; a range has low, high and log"]
    if isinstance(item, RangeSection):
        return item, _faults_of_range(key, item)
    if not isinstance(item, list):
        wanted = "a list of values, or {low: …, high: …}"
        return item, [f"{key}: needs {wanted}, received {item!r}"]
    if not item:
        return item, [f"{key}: the list is empty; name at least one value"]
    repeated = [value for place, value in enumerate(item) if value in item[:place]]
    return item, [
        *([f"{key}: {repeated[0]!r} is named twice"] if repeated else []),
        *(fault for value in item if (fault := _refusal(key, value))),
    ]


def _faults_of_range(key: str, ends: RangeSection) -> list[str]:
    if draws_whole_numbers(key) and not ends.is_whole:
        return [f"{key}: takes whole numbers, so its range needs whole ends"]
    values = (whole(key, value) for value in (ends.low, ends.high))
    return [fault for value in values if (fault := _refusal(key, value))]


def whole(key: str, value: float) -> float | int:
    """A drawn number in the type that the setting takes."""
    return round(value) if draws_whole_numbers(key) else value


def _refusal(key: str, value: Any) -> str:
    """What the setting itself says of a value, empty if nothing."""
    section, _, name = key.partition(".")
    try:
        _SECTIONS[section].model_validate({name: value})
    except ValidationError as error:
        said = str(error.errors(include_url=False)[0]["msg"])
        return f"{key}: {said[:1].lower()}{said[1:]}, received {value!r}"
    return ""


def _unknown(key: object) -> str:
    last = str(key).rpartition(".")[2]
    words = {known.rpartition(".")[2]: known for known in SEARCHED} | _ALIASES
    near = difflib.get_close_matches(last, words, n=1, cutoff=0.6)
    hint = f"did you mean {words[near[0]]}? " if near else ""
    return f"{key}: not a setting that a sweep can try; {hint}accepted: {', '.join(SEARCHED)}"


Space = Annotated[
    dict[str, RangeSection | list[Any]],
    BeforeValidator(_flattened),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"enum": list(SEARCHED)},
            "additionalProperties": {
                "anyOf": [
                    {"type": "array", "minItems": 1},
                    RangeSection.model_json_schema(),
                ]
            },
            "default": {},
        }
    ),
]


class HalvingSection(Section):
    """Successive halving: at each rung the best part goes on, the others stop."""

    eta: int = Field(3, ge=2, description="one in so many goes on, and the next rung is so much"
                     " further")  # fmt: skip
    min_epochs: float = Field(1, gt=0, description="epochs of training before the first rung")


class SweepSearchSection(Section):
    """How `veritune sweep` searches; what it tries is under `sweep`."""

    method: Literal["grid", "random", "tpe", "gp", "qmc"] = Field(
        "grid",
        description="grid: every combination of the lists; random: drawn; tpe, gp, qmc: Optuna's"
        " samplers, which learn from the results so far (qmc: evenly spread)",
    )
    n: int | None = Field(
        None,
        ge=1,
        description="how many configurations; null: all of a grid, 20 of any other method",
    )
    halving: HalvingSection | None = Field(
        HalvingSection(), description="null: every configuration trains to its end"
    )
    slots: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="configurations that train together; auto: as many as memory holds"
    )
    ask: int = Field(
        8,
        ge=1,
        description="configurations that tpe and gp choose before they see their results",
    )
    select: Literal["validation_loss", "primary_metric"] = Field(
        "validation_loss",
        description="primary_metric: the finalists answer the validation questions and the best"
        " answers win",
    )
    finalists: int = Field(
        3, ge=1, description="with select primary_metric: the best so many by validation loss"
    )
    seed: int | None = Field(
        None, ge=0, le=2**32 - 1, description="of the search; null: the recipe's seed"
    )
