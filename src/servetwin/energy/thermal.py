"""The temperature of an accelerator from its power: one resistance, one time constant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servetwin.energy.base import Thermal
from servetwin.energy.curves import PowerCurve

Floats = NDArray[np.float64]


def temperatures_c(thermal: Thermal, curve: PowerCurve) -> Floats:
    """Return the temperature at each edge of a power curve, shape ``(edges,)``; it begins in the steady state.

    Within a piece of constant power P: ``T(t) = T_P + (T(0) - T_P) exp(-t / time_constant)`` with
    ``T_P = ambient + P x resistance``.
    """
    steady = thermal.ambient_c + curve.watts * thermal.resistance_c_per_w
    decay = np.exp(-np.diff(curve.edges_ns) / 1e9 / thermal.time_constant_s)
    result = np.empty(len(curve.edges_ns))
    now = result[0] = steady[0] if len(steady) else thermal.ambient_c
    for i, (target, factor) in enumerate(zip(steady.tolist(), decay.tolist(), strict=True), start=1):
        now = result[i] = target + (now - target) * factor
    return result
