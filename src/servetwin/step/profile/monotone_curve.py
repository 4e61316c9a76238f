"""A table over one axis as physics has it: more tokens never take less time."""

from __future__ import annotations

import numpy as np

from servetwin.step.profile.grids import isotonic
from servetwin.step.profile.tables import Curve


class MonotoneCurve:
    """Linear between samples, smoothed so that none falls; constant below the first, linear above the last.

    The slope above is the median slope (Theil and Sen) of the samples in the upper half of the range, not below zero.
    """

    def __init__(self, curve: Curve) -> None:
        self._counts = curve.counts
        self._times = isotonic(curve.time_ns, 0)
        self.last = int(curve.counts[-1])
        self._slope = _median_slope(curve)

    def __call__(self, count: int) -> float:
        """Return the time for ``count`` tokens or sequences, in nanoseconds."""
        if count > self.last:
            return float(self._times[-1]) + self._slope * (count - self.last)
        return float(np.interp(count, self._counts, self._times))


def _median_slope(curve: Curve) -> float:
    upper = curve.counts >= curve.counts[-1] / 2
    x, y = curve.counts[upper].astype(np.float64), curve.time_ns[upper]
    if len(x) < 2:
        x, y = curve.counts[-2:].astype(np.float64), curve.time_ns[-2:]
    if len(x) < 2:
        return 0.0
    step = max(1, len(x) // 128)
    x, y = x[::step], y[::step]
    i, j = np.triu_indices(len(x), 1)
    return max(0.0, float(np.median((y[j] - y[i]) / (x[j] - x[i]))))
