"""Closed forms of collectives on a ring of equal links."""

from __future__ import annotations

from servetwin.core.units import NS_PER_S
from servetwin.network.base import Link, collectives
from servetwin.network.lss import LssDimension, LssRing

__all__ = ["LssDimension", "LssRing", "Ring"]


@collectives.register("ring")
class Ring:
    """A ring of equal links, every rank sending and receiving at once.

    Each operation is its own start and a number of steps, in each of which every rank sends one message: ``N - 1`` of
    ``D / N`` bytes for all-gather, reduce-scatter and all-to-all, twice as many for an all-reduce, which is the first
    two in a row (Patarasuk and Yuan, 2009). A broadcast is passed along the ring in slices. All links are alike: a
    group's stride and a message's distance change nothing.

    Parameters
    ----------
    link
        Each of the ring's links.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def all_reduce_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return ``operation + 2 (N - 1) (latency + D / N / bandwidth)``, in nanoseconds; 0 for one rank."""
        return self._steps_ns(num_bytes, ranks, 2)

    def all_gather_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return ``operation + (N - 1) (latency + D / N / bandwidth)``, in nanoseconds; 0 for one rank."""
        return self._steps_ns(num_bytes, ranks, 1)

    def reduce_scatter_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return what an all-gather of the same tensor takes."""
        return self._steps_ns(num_bytes, ranks, 1)

    def all_to_all_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return what an all-gather of the same size takes: one message to each of the others."""
        return self._steps_ns(num_bytes, ranks, 1)

    def broadcast_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return ``operation + (N - 1) latency + D / bandwidth``, in nanoseconds; 0 for one rank."""
        if ranks == 1:
            return 0.0
        link = self._link
        return link.operation_ns + (ranks - 1) * link.latency_ns + num_bytes / link.bandwidth_bytes_per_s * NS_PER_S

    def send_ns(self, num_bytes: float, distance: int = 1) -> float:
        """Return ``operation + latency + D / bandwidth``, in nanoseconds; 0 for no distance."""
        return self._link.operation_ns + self._link.message_ns(num_bytes) if distance else 0.0

    def _steps_ns(self, num_bytes: float, ranks: int, rounds: int) -> float:
        if ranks == 1:
            return 0.0
        return self._link.operation_ns + rounds * (ranks - 1) * self._link.message_ns(num_bytes / ranks)
