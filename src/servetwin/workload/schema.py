"""What all workload options have in common: strict reading, and the ranges that are allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from servetwin.workload.limits import MAX_REQUESTS, MAX_SECONDS, MAX_TOKENS

Count: TypeAlias = Annotated[int, Field(ge=1, le=MAX_REQUESTS)]
Tokens: TypeAlias = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Rate: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]
Seconds: TypeAlias = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
Sigma: TypeAlias = Annotated[float, Field(ge=0, le=5)]

Lengths: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[np.float64]


class Options(BaseModel):
    """Options as a user writes them: unknown keys, NaN and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def at(self, folder: Path) -> Self:
        """Return the same options with relative paths taken from ``folder`` (that of the file that names them)."""
        located = {
            name: value.at(folder)
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), Options)
        }
        return self.model_copy(update=located) if located else self


def absolute(path: str, folder: Path) -> str:
    """Return ``path``, taken from ``folder`` where it is relative."""
    return str(folder / path)
