"""What a user sets about measuring: warm-up, interval, service level objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from servetwin.core.errors import InputError, unknown_name
from servetwin.core.units import seconds_to_ns

LATENCIES = ("ttft_s", "tpot_s", "e2e_s", "queue_s")
"""Latencies that are one number per request; an objective can be set on each."""


@dataclass(frozen=True, slots=True)
class MetricOptions:
    """How a simulation is measured.

    Parameters
    ----------
    interval_s
        Length of an interval of the time series, in seconds, at least a microsecond.
    warmup_s
        Latencies, objectives and goodput count requests that arrived at this time or later, in seconds.
    slo
        Objectives: the greatest allowed value, in seconds, by the name of a latency (``LATENCIES``).

    Raises
    ------
    InputError
        For a negative or not finite time, or an unknown latency.
    """

    interval_s: float = 1.0
    warmup_s: float = 0.0
    slo: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.interval_s) and self.interval_s >= 1e-6):
            raise InputError(f"{self.interval_s} is not allowed; at least 1e-6 seconds", where="output.interval_s")
        if not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise InputError(f"{self.warmup_s} is not allowed; zero or more seconds", where="output.warmup_s")
        for name, limit in self.slo.items():
            if name not in LATENCIES:
                raise unknown_name("objective", name, LATENCIES, where="slo")
            if not (math.isfinite(limit) and limit > 0):
                raise InputError(f"{limit} is not allowed; more than zero seconds", where=f"slo.{name}")

    @property
    def interval_ns(self) -> int:
        """The interval in nanoseconds."""
        return seconds_to_ns(self.interval_s)

    @property
    def warmup_ns(self) -> int:
        """The warm-up in nanoseconds."""
        return seconds_to_ns(self.warmup_s)
