"""What every group of settings has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

SizeOf = Annotated[
    int | float | None,
    Field(description="rows if a whole number, a share if below 1, null for what is left"),
]


class Section(BaseModel):
    """A group of settings; refuses unknown keys and wrong types."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_default=True, allow_inf_nan=False
    )
