"""What a meter shows of a power curve: it lags, it averages between readings, and its clock began at another time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.energy.curves import PowerCurve

Floats = NDArray[np.float64]

FINE_S = 0.05


@dataclass(frozen=True)
class Meter:
    """A meter of whole machines or boards.

    Attributes
    ----------
    offset_s
        Its time less the run's.
    lag_s
        Time constant of its low-pass filter; 0: none.
    """

    offset_s: float = 0.0
    lag_s: float = 0.0

    def shows(self, curves: list[PowerCurve], time_s: Floats) -> Floats:
        """Return what it shows at its times of the sum of curves: means since the reading before, in watts."""
        width = float(np.median(np.diff(time_s)))
        first = time_s[0] - self.offset_s - width - 10 * self.lag_s
        count = int(np.ceil((time_s[-1] - self.offset_s - first) / FINE_S)) + 1
        bounds_s = first + FINE_S * np.arange(count + 1)
        bounds = np.round(bounds_s * NS_PER_S).astype(np.int64)
        watts = np.asarray(sum((curve.binned(bounds) for curve in curves), np.zeros(count)))
        done = np.concatenate([[0.0], np.cumsum(self._filtered(watts)) * FINE_S])
        ends = time_s - self.offset_s
        return np.asarray((np.interp(ends, bounds_s, done) - np.interp(ends - width, bounds_s, done)) / width)

    def _filtered(self, watts: Floats) -> Floats:
        if self.lag_s <= 0:
            return watts
        keep = float(np.exp(-FINE_S / self.lag_s))
        result = np.empty_like(watts)
        now = watts[0]
        for i, value in enumerate(watts.tolist()):
            now = result[i] = keep * now + (1 - keep) * value
        return result
