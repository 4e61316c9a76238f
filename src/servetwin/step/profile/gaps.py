"""Collectives beside times that hold the gaps between kernels already."""

from __future__ import annotations

from collections.abc import Callable

from servetwin.network.base import Collectives

LARGE_BYTES = 2**27
"""From here on a collective's time grows by the links' full rate."""


class BeyondStart:
    """What the data of a collective take at the links' full rate, without the start of its kernel.

    For profiles whose times were taken around each layer of a running model: they hold the time in which the
    accelerator waits for the host to start the next kernel. A collective's own start, and what small messages do not
    reach of the full rate, pass within that time.

    Parameters
    ----------
    collectives
        The whole costs.
    """

    def __init__(self, collectives: Collectives) -> None:
        self._whole = collectives
        self._ns_per_byte: dict[tuple[str, int, int], float] = {}

    def _at_full_rate(
        self, name: str, cost: Callable[[float, int, int], float], num_bytes: float, ranks: int, stride: int
    ) -> float:
        key = (name, ranks, stride)
        found = self._ns_per_byte.get(key)
        if found is None:
            more = cost(2 * LARGE_BYTES, ranks, stride) - cost(LARGE_BYTES, ranks, stride)
            found = self._ns_per_byte[key] = more / LARGE_BYTES
        return found * num_bytes

    def all_reduce_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._at_full_rate("all_reduce", self._whole.all_reduce_ns, num_bytes, ranks, stride)

    def all_gather_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._at_full_rate("all_gather", self._whole.all_gather_ns, num_bytes, ranks, stride)

    def reduce_scatter_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._at_full_rate("reduce_scatter", self._whole.reduce_scatter_ns, num_bytes, ranks, stride)

    def all_to_all_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._at_full_rate("all_to_all", self._whole.all_to_all_ns, num_bytes, ranks, stride)

    def broadcast_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._at_full_rate("broadcast", self._whole.broadcast_ns, num_bytes, ranks, stride)

    def send_ns(self, num_bytes: float, distance: int = 1) -> float:
        """See `Collectives`: the whole, since nothing else of the step stands beside it."""
        return self._whole.send_ns(num_bytes, distance)
