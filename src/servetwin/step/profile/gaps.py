"""Collectives beside times that hold the gaps between kernels already."""

from __future__ import annotations

from servetwin.network.base import Collectives


class BeyondStart:
    """What a collective takes beyond one of no bytes: the way of its data, not the start of its kernel.

    For profiles whose times were taken around each layer of a running model: they hold the time in which the
    accelerator waits for the host to start the next kernel, and a collective's own start with it.

    Parameters
    ----------
    collectives
        The whole costs.
    """

    def __init__(self, collectives: Collectives) -> None:
        self._whole = collectives

    def all_reduce_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._whole.all_reduce_ns(num_bytes, ranks, stride) - self._whole.all_reduce_ns(0, ranks, stride)

    def all_gather_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._whole.all_gather_ns(num_bytes, ranks, stride) - self._whole.all_gather_ns(0, ranks, stride)

    def reduce_scatter_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._whole.reduce_scatter_ns(num_bytes, ranks, stride) - self._whole.reduce_scatter_ns(0, ranks, stride)

    def all_to_all_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._whole.all_to_all_ns(num_bytes, ranks, stride) - self._whole.all_to_all_ns(0, ranks, stride)

    def broadcast_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._whole.broadcast_ns(num_bytes, ranks, stride) - self._whole.broadcast_ns(0, ranks, stride)

    def send_ns(self, num_bytes: float, distance: int = 1) -> float:
        """See `Collectives`: the whole, since nothing else of the step stands beside it."""
        return self._whole.send_ns(num_bytes, distance)
