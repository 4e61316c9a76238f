"""The contract of the network's costs: a link, and what a collective takes on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from servetwin.core.errors import InputError
from servetwin.core.registry import Registry
from servetwin.core.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class Link:
    """One link between two accelerators, as one message sees it.

    Attributes
    ----------
    bandwidth_bytes_per_s
        Of one direction.
    latency_ns
        Of one message: everything that does not depend on its size.
    operation_ns
        Of one collective, whatever its size and its ranks: its kernel's start, and waiting for the last rank to come.

    Raises
    ------
    InputError
        If the bandwidth is not above 0 or the latency is negative (or either is not finite).
    """

    bandwidth_bytes_per_s: float
    latency_ns: float
    operation_ns: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth_bytes_per_s) and self.bandwidth_bytes_per_s > 0):
            raise InputError(f"a link's bandwidth must be above 0 bytes/s, got {self.bandwidth_bytes_per_s!r}")
        if not (math.isfinite(self.latency_ns) and self.latency_ns >= 0):
            raise InputError(f"a link's latency must be at least 0 ns, got {self.latency_ns!r}")
        if not (math.isfinite(self.operation_ns) and self.operation_ns >= 0):
            raise InputError(f"an operation's time must be at least 0 ns, got {self.operation_ns!r}")

    def message_ns(self, num_bytes: float) -> float:
        """Return the time of one message of ``num_bytes``, in nanoseconds: latency + size / bandwidth."""
        return self.latency_ns + num_bytes / self.bandwidth_bytes_per_s * NS_PER_S


class Collectives(Protocol):
    """What collectives among the ranks of one instance take."""

    def all_reduce_ns(self, num_bytes: float, ranks: int) -> float:
        """Return the time until all ``ranks`` hold the sum of their ``num_bytes``, in nanoseconds (0 for one rank)."""
        ...


collectives: Registry[Collectives] = Registry("collective")
"""Factories take ``(link: Link)`` and their own options by keyword."""
