"""Times that are worked out once for each key, as dictionaries: a known key costs one look-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from servetwin.step.kernels import Numbers

K = TypeVar("K")
V = TypeVar("V")


class RowTimes(dict[int, float]):
    """Times by a number of rows, computed for a block of numbers at once when one of them is asked for."""

    BLOCK = 64

    def __init__(self, function: Callable[[Numbers], Numbers]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, rows: int) -> float:
        first = rows // self.BLOCK * self.BLOCK
        block = range(first, first + self.BLOCK)
        self.update(zip(block, self._function(np.array(block, dtype=np.float64)).tolist(), strict=True))
        return self[rows]


class Memo(dict[K, V], Generic[K, V]):
    """Values of a function of one key."""

    def __init__(self, function: Callable[[K], V]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, key: K) -> V:
        value = self[key] = self._function(key)
        return value
