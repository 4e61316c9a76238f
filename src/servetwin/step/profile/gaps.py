"""Collectives beside times that hold the gaps between kernels already."""

from __future__ import annotations

from servetwin.network.algorithms import Operation
from servetwin.network.base import Collectives
from servetwin.network.by_operation import ByOperation, operation_ns

LARGE_BYTES = 2**27
"""From here on a collective's time grows by the links' full rate."""


class BeyondStart(ByOperation):
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
        self._ns_per_byte: dict[tuple[Operation, int, int], float] = {}

    def _time_ns(self, operation: Operation, num_bytes: float, ranks: int, stride: int) -> float:
        key = (operation, ranks, stride)
        found = self._ns_per_byte.get(key)
        if found is None:
            twice = operation_ns(self._whole, operation, 2 * LARGE_BYTES, ranks, stride)
            more = twice - operation_ns(self._whole, operation, LARGE_BYTES, ranks, stride)
            found = self._ns_per_byte[key] = more / LARGE_BYTES
        return found * num_bytes

    def send_ns(self, num_bytes: float, distance: int = 1) -> float:
        """See `Collectives`: the whole, since nothing else of the step stands beside it."""
        return self._whole.send_ns(num_bytes, distance)
