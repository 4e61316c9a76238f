"""Small helpers for columns."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S
from servetwin.workload.limits import MAX_SECONDS

Integers: TypeAlias = NDArray[np.int64]


def nanoseconds(times_s: NDArray[np.float64]) -> Integers:
    """Return seconds as whole nanoseconds, rounded to the nearest.

    Raises
    ------
    InputError
        If a time lies beyond `MAX_SECONDS`, where nanoseconds leave an int64.
    """
    if len(times_s) and not float(times_s.max()) <= MAX_SECONDS:
        raise InputError(f"a time of {times_s.max():g} s is beyond the {MAX_SECONDS:g} s that are allowed")
    return np.rint(times_s * NS_PER_S).astype(np.int64)
