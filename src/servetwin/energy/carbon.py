"""Emissions: energy by the grid's carbon intensity, hour by hour, and what making the hardware emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.energy.cost import HOURS_PER_YEAR, JOULES_PER_KWH
from servetwin.energy.model import Energy

HOUR_NS = 3600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Embodied:
    """Emissions of making one accelerator with its share of the node, written off evenly over its life."""

    kg: float
    lifetime_years: float
    accelerators: int

    @property
    def g_per_hour(self) -> float:
        """Of all accelerators of the pool."""
        return self.kg * 1000 * self.accelerators / (self.lifetime_years * HOURS_PER_YEAR)


@dataclass(frozen=True, slots=True)
class CarbonModel:
    """Carbon intensity of the grid.

    Attributes
    ----------
    g_per_kwh
        One value, or one per hour; the series begins anew after its last hour.
    start_hour
        The hour of the series at time 0; it may be a fraction.
    embodied
        By pool; empty: not counted.
    """

    g_per_kwh: Sequence[float]
    start_hour: float = 0.0
    embodied: Mapping[str, Embodied] = field(default_factory=dict)

    def measure(self, energy: Energy) -> dict[str, Any]:
        """Return the part ``carbon`` of the summary, in grams of CO2 equivalent."""
        operational = float((self._kwh_by_hour(energy) * self._intensities(energy)).sum())
        hours = energy.duration_s / 3600
        embodied = sum(item.g_per_hour * hours for item in self.embodied.values())
        total = operational + embodied
        served = np.asarray(energy.outcome.requests.first_token_ns) >= 0
        tokens = int(energy.outcome.workload.output_tokens[served].sum())
        return {
            "operational_g": operational,
            "embodied_g": embodied,
            "total_g": total,
            "g_per_request": total / int(served.sum()) if served.any() else None,
            "g_per_million_output_tokens": total * 1e6 / tokens if tokens else None,
        }

    def _bounds(self, energy: Energy) -> NDArray[np.int64]:
        """Return the ends of hours that lie in the run, from its begin to its end."""
        first = HOUR_NS - round((self.start_hour % 1.0) * HOUR_NS)
        inner = np.arange(first, energy.end_ns, HOUR_NS, dtype=np.int64)
        return np.concatenate([[0], inner, [energy.end_ns]]).astype(np.int64)

    def _kwh_by_hour(self, energy: Energy) -> NDArray[np.float64]:
        return energy.between(self._bounds(energy)) / JOULES_PER_KWH

    def _intensities(self, energy: Energy) -> NDArray[np.float64]:
        hours = int(self.start_hour) + np.arange(len(self._bounds(energy)) - 1)
        return np.asarray(self.g_per_kwh, dtype=np.float64)[hours % len(self.g_per_kwh)]
