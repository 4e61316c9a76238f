"""A value for every request, or a mix of values by weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

T = TypeVar("T", str, int)

Weight = Annotated[float, Field(ge=0, le=1e9)]


def _positive_sum(mix: dict[T, float]) -> dict[T, float]:
    if sum(mix.values()) <= 0:
        raise ValueError("the weights of a mix must have a positive sum")
    return mix


ModelMix = str | Annotated[dict[str, Weight], AfterValidator(_positive_sum)]
"""A model's name, or names with weights: ``{small: 0.8, large: 0.2}``."""

PriorityMix = int | Annotated[dict[int, Weight], AfterValidator(_positive_sum)]
"""A priority (smaller is served earlier), or priorities with weights: ``{0: 0.1, 5: 0.9}``."""


def draw_mix(mix: T | Mapping[T, float], n: int, rng: np.random.Generator) -> tuple[list[T], NDArray[np.int64]]:
    """Return the values of a mix and, for each of ``n`` items, which of them it has, shape ``(n,)``."""
    if not isinstance(mix, Mapping):
        return [mix], np.zeros(n, dtype=np.int64)
    weights = np.array(list(mix.values()), dtype=np.float64)
    edges = np.cumsum(weights / weights.sum())
    return list(mix), np.minimum(np.searchsorted(edges, rng.random(n), side="right"), len(edges) - 1)
