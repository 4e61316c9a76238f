"""Small helpers for columns."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S

Integers: TypeAlias = NDArray[np.int64]


def nanoseconds(times_s: NDArray[np.float64]) -> Integers:
    """Return seconds as whole nanoseconds, rounded to the nearest."""
    return np.rint(times_s * NS_PER_S).astype(np.int64)
