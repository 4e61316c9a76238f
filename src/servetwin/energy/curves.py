"""Power over time as constant pieces, and its integral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S

Floats = NDArray[np.float64]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """Power that is constant between edges.

    Attributes
    ----------
    edges_ns
        Ascending times, shape ``(n + 1,)``.
    watts
        Between consecutive edges, shape ``(n,)``; 0 outside.
    """

    edges_ns: Times
    watts: Floats

    @property
    def energy_j(self) -> float:
        """The integral."""
        return float((self.watts * np.diff(self.edges_ns)).sum() / NS_PER_S)  # no dot: it would start threads

    @property
    def peak_w(self) -> float:
        """The highest piece that lasts."""
        lasts = np.diff(self.edges_ns) > 0
        return float(self.watts[lasts].max(initial=0.0))

    def until(self, times_ns: Times) -> Floats:
        """Return the energy up to some times, in joules."""
        if len(self.watts) == 0:
            return np.zeros(len(times_ns))
        done = np.concatenate([[0.0], np.cumsum(self.watts * np.diff(self.edges_ns))])
        piece = np.clip(np.searchsorted(self.edges_ns, times_ns, side="right") - 1, 0, len(self.watts) - 1)
        into = np.clip(times_ns, self.edges_ns[0], self.edges_ns[-1]) - self.edges_ns[piece]
        return np.asarray((done[piece] + self.watts[piece] * into) / NS_PER_S)

    def binned(self, bounds_ns: Times) -> Floats:
        """Return the mean power between consecutive bounds, in watts."""
        return np.asarray(np.diff(self.until(bounds_ns)) / np.diff(bounds_ns) * NS_PER_S)


def constant(watts: float, end_ns: int) -> PowerCurve:
    """Return a power that never changes from time 0 to the end."""
    return PowerCurve(np.array([0, end_ns], dtype=np.int64), np.array([watts], dtype=np.float64))


def pulses(start_ns: Times, end_ns: Times, watts: Floats) -> PowerCurve:
    """Return the sum of pulses, each with a power from its start to its end; they may overlap."""
    if len(start_ns) == 0:
        return PowerCurve(np.zeros(1, np.int64), np.zeros(0))
    if np.all(start_ns[1:] >= end_ns[:-1]):
        edges = np.stack([start_ns, end_ns], axis=1).ravel()
        levels = np.stack([watts, np.zeros(len(watts))], axis=1).ravel()[:-1]
        return PowerCurve(edges, levels)
    edges = np.concatenate([start_ns, end_ns])
    order = np.argsort(edges, kind="stable")
    changes = np.concatenate([watts, -watts])[order]
    return PowerCurve(edges[order], np.maximum(np.cumsum(changes)[:-1], 0.0))


def total(curves: Sequence[PowerCurve]) -> PowerCurve:
    """Return the sum of curves, exactly: its edges are all of theirs."""
    some = [curve for curve in curves if len(curve.watts)]
    if not some:
        return PowerCurve(np.zeros(1, np.int64), np.zeros(0))
    edges = np.unique(np.concatenate([curve.edges_ns for curve in some]))
    watts = np.zeros(len(edges) - 1)
    for curve in some:
        piece = np.searchsorted(curve.edges_ns, edges[:-1], side="right") - 1
        inside = (piece >= 0) & (piece < len(curve.watts))
        watts[inside] += curve.watts[piece[inside]]
    return PowerCurve(edges, watts)
