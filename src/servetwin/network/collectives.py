"""Closed forms of collectives on a ring."""

from __future__ import annotations

import math

from servetwin.core.errors import InputError
from servetwin.core.units import GIB, NS_PER_S
from servetwin.network.base import Link, collectives


@collectives.register("ring")
class Ring:
    """A ring of equal links, every rank sending and receiving at once.

    All-reduce is a reduce-scatter and an all-gather: ``2 (N - 1)`` steps, each one message of ``D / N`` bytes
    (Patarasuk and Yuan, 2009), after the operation's own start.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def all_reduce_ns(self, num_bytes: float, ranks: int) -> float:
        """Return ``operation + 2 (N - 1) (latency + D / N / bandwidth)``, in nanoseconds; 0 for one rank."""
        if ranks == 1:
            return 0.0
        return self._link.operation_ns + 2 * (ranks - 1) * self._link.message_ns(num_bytes / ranks)


@collectives.register("lss_ring")
class LssRing:
    """LLMServingSim's ring: GB/s as 2**30 bytes, whole nanoseconds, small fixed delays, a cost for the reductions.

    Each of the ``2 (N - 1)`` steps moves ``S = D / N`` bytes in ``floor(latency + S / (bandwidth * 2**30 / 10**9))``
    and pays an endpoint's and a bus's delay of 10 ns each; each of the ``N - 1`` steps that add up numbers takes
    ``3 S / memory_bandwidth`` more.

    Parameters
    ----------
    link
        Its bandwidth is read as multiples of 10**9 (the figure in the file) and scaled to 2**30.
    memory_bandwidth_bytes_per_s
        Of the accelerator's own memory, for the reductions; 0 leaves them out.
    """

    ENDPOINT_NS = 10
    BUS_NS = 10

    def __init__(self, link: Link, memory_bandwidth_bytes_per_s: float = 0.0) -> None:
        if not (math.isfinite(memory_bandwidth_bytes_per_s) and memory_bandwidth_bytes_per_s >= 0):
            raise InputError(f"a memory bandwidth must be at least 0 bytes/s, got {memory_bandwidth_bytes_per_s!r}")
        self._latency_ns = link.latency_ns
        self._bytes_per_ns = link.bandwidth_bytes_per_s / NS_PER_S * GIB / 1e9
        self._memory_bytes_per_s = memory_bandwidth_bytes_per_s

    def message_ns(self, num_bytes: float) -> int:
        """Return the link time of one message, in whole nanoseconds."""
        return math.floor(self._latency_ns + num_bytes / self._bytes_per_ns)

    def all_reduce_ns(self, num_bytes: float, ranks: int) -> float:
        """Return the time of an all-reduce, in whole nanoseconds."""
        if ranks == 1:
            return 0
        size = num_bytes / ranks
        step_ns = self.message_ns(size) + self.ENDPOINT_NS + self.BUS_NS
        return (ranks - 1) * (2 * step_ns + self._reduction_ns(size))

    def _reduction_ns(self, num_bytes: float) -> int:
        if not self._memory_bytes_per_s:
            return 0
        return math.floor(3 * num_bytes / self._memory_bytes_per_s * NS_PER_S)
