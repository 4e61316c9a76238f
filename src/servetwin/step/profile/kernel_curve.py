"""A measured layer over one axis: more tokens take no less time, but where another kernel takes over."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from servetwin.step.profile.grids import Floats, isotonic
from servetwin.step.profile.monotone_curve import MonotoneCurve
from servetwin.step.profile.tables import Curve

KERNEL_SAMPLES = 12
"""Samples on either side of a fall that must agree: more than one tile of 8 tokens, and too many for noise."""

KERNEL_PART = 0.03
"""Part by which the fastest sample before a fall is slower than the slowest one behind it."""


class KernelCurve(MonotoneCurve):
    """As `MonotoneCurve`, smoothed for each kernel by itself.

    Libraries choose a matrix kernel by the number of rows, and not always the best: on an RTX A6000 products of 65 to
    82 rows take 10 to 20 % longer than those of 83, in every layer of that shape and of both models that were measured.
    Smoothing over such a fall would make the slow kernel too fast, and the next one too slow.
    """

    def _smoothed(self, curve: Curve) -> Floats:
        parts = np.split(curve.time_ns, kernel_changes(curve.time_ns))
        return np.concatenate([isotonic(part, 0) for part in parts])


def kernel_changes(time_ns: Floats) -> NDArray[np.int64]:
    """Return the indices of the first samples that a faster kernel serves, ascending.

    The `KERNEL_SAMPLES` samples before each are all slower than it and those behind it, by `KERNEL_PART` at least.

    Parameters
    ----------
    time_ns
        Times by ascending tokens, shape ``(n,)``.
    """
    if len(time_ns) < 2 * KERNEL_SAMPLES:
        return np.zeros(0, dtype=np.int64)
    windows = sliding_window_view(time_ns, KERNEL_SAMPLES)
    before, after = windows.min(axis=1)[:-KERNEL_SAMPLES], windows.max(axis=1)[KERNEL_SAMPLES:]
    return np.flatnonzero(before > after * (1 + KERNEL_PART)) + KERNEL_SAMPLES
