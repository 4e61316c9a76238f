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
    """What collectives among the accelerators of one replica take, in nanoseconds; 0 for a group of one.

    Accelerators are numbered as vLLM numbers ranks: tensor parallelism innermost, then pipeline, then data parallelism.
    A group is ``ranks`` of them, each ``stride`` from the next: neighbours for tensor parallelism, ``stride`` = tensor
    x pipeline size for data parallelism. Sizes are those of the whole tensor, as one rank sees it:

    - all-reduce: the tensor that every rank holds before and after;
    - all-gather: the gathered tensor; reduce-scatter: the tensor before it is scattered;
    - all-to-all: all that one rank sends, its own part (1 / ranks) included;
    - broadcast and send: the tensor.
    """

    def all_reduce_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time until all ranks hold the sum."""
        ...

    def all_gather_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time until all ranks hold all parts."""
        ...

    def reduce_scatter_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time until each rank holds its part of the sum."""
        ...

    def all_to_all_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time until each rank has what all others have for it."""
        ...

    def broadcast_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time until all ranks have what one has."""
        ...

    def send_ns(self, num_bytes: float, distance: int = 1) -> float:
        """Return the time of one message to the accelerator ``distance`` further."""
        ...


collectives: Registry[Collectives] = Registry("collective")
"""Factories take ``(link: Link)`` and/or ``(topology: Topology)`` and their own options by keyword."""
