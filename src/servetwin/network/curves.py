"""Measured times of collectives over their size, and interpolation between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

from servetwin.core.errors import InputError


class CurveKey(NamedTuple):
    """What one curve is of: an operation among ``ranks``, each ``stride`` from the next (``send``: 2 ranks)."""

    operation: str
    ranks: int
    stride: int = 1


class Curve:
    """Time over bytes of one operation, from measured points.

    Never falls with size: a point below an earlier one is raised to it. Linear between points; the first point's time
    below it, and beyond the last a straight line that is as steep as the last piece, or as the whole curve where that
    is steeper.

    Parameters
    ----------
    points
        Pairs of bytes and nanoseconds, at least one, in any order; times of equal sizes are merged into their mean.
    """

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        merged: dict[float, list[float]] = {}
        for size, time in points:
            merged.setdefault(size, []).append(time)
        if not merged:
            raise InputError("a measured curve needs at least one point")
        ordered = [(size, sum(times) / len(times)) for size, times in sorted(merged.items())]
        self.sizes = [size for size, _ in ordered]
        self.times_ns = list(accumulate((time for _, time in ordered), max))
        self._beyond = self._last_slope()

    def __call__(self, num_bytes: float) -> float:
        """Return the time of ``num_bytes``, in nanoseconds."""
        sizes, times = self.sizes, self.times_ns
        if num_bytes <= sizes[0]:
            return times[0]
        if num_bytes >= sizes[-1]:
            return times[-1] + (num_bytes - sizes[-1]) * self._beyond
        i = bisect_right(sizes, num_bytes)
        share = (num_bytes - sizes[i - 1]) / (sizes[i] - sizes[i - 1])
        return times[i - 1] + share * (times[i] - times[i - 1])

    def _last_slope(self) -> float:
        sizes, times = self.sizes, self.times_ns
        if len(sizes) == 1:
            return times[0] / sizes[0] if sizes[0] else 0.0
        return max((times[-1] - times[i]) / (sizes[-1] - sizes[i]) for i in (0, -2))


Curves = Mapping[CurveKey, Curve]


def curves_of(rows: Iterable[tuple[CurveKey, float, float]]) -> dict[CurveKey, Curve]:
    """Return the curves of rows (key, bytes, nanoseconds)."""
    points: dict[CurveKey, list[tuple[float, float]]] = {}
    for key, num_bytes, time_ns in rows:
        points.setdefault(key, []).append((num_bytes, time_ns))
    return {key: Curve(pairs) for key, pairs in points.items()}
