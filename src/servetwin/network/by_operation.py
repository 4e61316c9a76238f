"""Collectives that answer for every operation by one rule, which is told the operation."""

from __future__ import annotations

from abc import ABC, abstractmethod

from servetwin.network.algorithms import Operation
from servetwin.network.base import Collectives


def operation_ns(collectives: Collectives, operation: Operation, num_bytes: float, ranks: int, stride: int) -> float:
    """Return what the method of that operation returns."""
    time: float = getattr(collectives, f"{operation}_ns")(num_bytes, ranks, stride)
    return time


class ByOperation(ABC):
    """The methods of `servetwin.network.base.Collectives` for groups, all by ``_time_ns``."""

    @abstractmethod
    def _time_ns(self, operation: Operation, num_bytes: float, ranks: int, stride: int) -> float:
        """Return the time of ``operation``."""

    def all_reduce_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._time_ns("all_reduce", num_bytes, ranks, stride)

    def all_gather_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._time_ns("all_gather", num_bytes, ranks, stride)

    def reduce_scatter_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._time_ns("reduce_scatter", num_bytes, ranks, stride)

    def all_to_all_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._time_ns("all_to_all", num_bytes, ranks, stride)

    def broadcast_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """See `Collectives`."""
        return self._time_ns("broadcast", num_bytes, ranks, stride)
