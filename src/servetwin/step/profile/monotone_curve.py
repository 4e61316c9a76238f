"""A table over one axis as physics has it: more tokens never take less time."""

from __future__ import annotations

import numpy as np

from servetwin.step.profile.grids import Floats, isotonic
from servetwin.step.profile.tables import Curve


class MonotoneCurve:
    """Linear between samples, smoothed so that none falls; constant below the first, linear above the last.

    The slope above is the median over pairs of samples half of the upper half of the range apart (Theil, 1950; steps of
    matrix kernels are flat inside, so that near pairs would say nothing), not below zero.
    """

    def __init__(self, curve: Curve) -> None:
        self._counts = curve.counts
        self._times = self._smoothed(curve)
        self.last = int(curve.counts[-1])
        self.slope = _median_slope(curve)

    def _smoothed(self, curve: Curve) -> Floats:
        return isotonic(curve.time_ns, 0)

    def __call__(self, count: float) -> float:
        """Return the time for ``count`` tokens, sequences or pairs, in nanoseconds."""
        if count > self.last:
            return float(self._times[-1]) + self.slope * (count - self.last)
        return float(np.interp(count, self._counts, self._times))


def _median_slope(curve: Curve) -> float:
    if len(curve.counts) < 2:
        return 0.0
    start = min(int(np.searchsorted(curve.counts, curve.counts[-1] / 2)), len(curve.counts) - 2)
    x, y = curve.counts[start:].astype(np.float64), curve.time_ns[start:]
    apart = (len(x) + 1) // 2
    return max(0.0, float(np.median((y[apart:] - y[:-apart]) / (x[apart:] - x[:-apart]))))
