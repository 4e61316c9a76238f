"""LLMServingSim's collectives: rings over the dimensions of a fully connected network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from servetwin.core.errors import InputError
from servetwin.core.units import GB, GIB, NS_PER_S
from servetwin.network.base import Link, collectives


@dataclass(frozen=True, slots=True)
class LssDimension:
    """One dimension of LLMServingSim's network, as its cluster file gives it.

    Attributes
    ----------
    ranks
        Accelerators along this dimension.
    gb_per_s
        ``link_bw``: read as multiples of 2**30 bytes.
    latency_ns
        ``link_latency``.
    """

    ranks: int
    gb_per_s: float
    latency_ns: float

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise InputError(f"a dimension has at least 1 rank, got {self.ranks}")
        Link(self.gb_per_s * GB, self.latency_ns)  # refuses what no link can be


@collectives.register("lss_ring")
class LssRing:
    """LLMServingSim's ring: GB/s as 2**30 bytes, whole nanoseconds, small fixed delays, a cost for the reductions.

    A message of ``S`` bytes takes ``floor(latency + S / (bandwidth * 2**30 / 10**9))``, and in a collective an
    endpoint's and a bus's delay of 10 ns each; each of the ``N - 1`` steps that add up numbers takes
    ``3 S / memory_bandwidth`` more. All-gather, reduce-scatter and all-to-all are ``N - 1`` steps of ``D / N`` bytes,
    an all-reduce is ``2 (N - 1)``. (ASTRA-sim counts an all-gather by the part of one rank; here ``D`` is the gathered
    tensor, as everywhere.) Every pair has a link of its own: a broadcast is one message.

    Over several dimensions an all-reduce scatters up the dimensions, reduces on the last and gathers down
    (``localBWAware``), a reduce-scatter goes up and an all-gather down, an all-to-all goes through all in full size.

    Parameters
    ----------
    link
        Its bandwidth is read as multiples of 10**9 (the figure in the file) and scaled to 2**30.
    memory_bandwidth_bytes_per_s
        Of the accelerator's own memory, for the reductions; 0 leaves them out.
    dimensions
        The network's dimensions, innermost first; empty for one of any size made of ``link``. A group then covers whole
        dimensions: those that ``stride`` and ``ranks`` lead to. `over` keeps only some of them.
    """

    ENDPOINT_NS = 10
    BUS_NS = 10

    def __init__(
        self, link: Link, memory_bandwidth_bytes_per_s: float = 0.0, dimensions: Sequence[LssDimension] = ()
    ) -> None:
        if not (math.isfinite(memory_bandwidth_bytes_per_s) and memory_bandwidth_bytes_per_s >= 0):
            raise InputError(f"a memory bandwidth must be at least 0 bytes/s, got {memory_bandwidth_bytes_per_s!r}")
        self._whole = LssDimension(1, link.bandwidth_bytes_per_s / GB, link.latency_ns)
        self._dimensions = tuple(dimensions)
        self._memory_bytes_per_s = memory_bandwidth_bytes_per_s
        self._groups: dict[tuple[int, int], list[LssDimension]] = {}

    def over(self, *indices: int) -> LssRing:
        """Return the same network reduced to some dimensions: the ranks of ``over(0, 2)`` are numbered within them.

        An expert-parallel group over tensor and data ranks of one pipeline stage is such a group; its ranks have no
        single stride in the whole network.

        Raises
        ------
        InputError
            If there is no such dimension.
        """
        wrong = [index for index in indices if not 0 <= index < len(self._dimensions)]
        if wrong:
            raise InputError(f"no dimension {wrong[0]}: this network has {len(self._dimensions)}, counted from 0")
        kept = [self._dimensions[index] for index in indices]
        link = Link(self._whole.gb_per_s * GB, self._whole.latency_ns)
        return LssRing(link, self._memory_bytes_per_s, kept)

    def message_ns(self, num_bytes: float) -> int:
        """Return the link time of one message over ``link``, in whole nanoseconds."""
        return _message_ns(self._whole, num_bytes)

    def all_reduce_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time of an all-reduce, in whole nanoseconds."""
        total, size = 0, num_bytes
        for dimension in self._group(ranks, stride):
            step_ns = 2 * self._step_ns(dimension, size) + self._reduction_ns(size / dimension.ranks)
            total += (dimension.ranks - 1) * step_ns
            size /= dimension.ranks
        return total

    def all_gather_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time of an all-gather to ``num_bytes``, in whole nanoseconds."""
        total, size = 0, num_bytes
        for dimension in self._group(ranks, stride):  # what is gathered last is the whole: the innermost dimension
            total += (dimension.ranks - 1) * self._step_ns(dimension, size)
            size /= dimension.ranks
        return total

    def reduce_scatter_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time of a reduce-scatter of ``num_bytes``, in whole nanoseconds."""
        total, size = 0, num_bytes
        for dimension in self._group(ranks, stride):
            step_ns = self._step_ns(dimension, size) + self._reduction_ns(size / dimension.ranks)
            total += (dimension.ranks - 1) * step_ns
            size /= dimension.ranks
        return total

    def all_to_all_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return the time of an all-to-all, in whole nanoseconds."""
        group = self._group(ranks, stride)
        return sum((dimension.ranks - 1) * self._step_ns(dimension, num_bytes) for dimension in group)

    def broadcast_ns(self, num_bytes: float, ranks: int, stride: int = 1) -> float:
        """Return one message over each dimension of the group, in whole nanoseconds."""
        group = self._group(ranks, stride)
        return sum(_message_ns(dimension, num_bytes) + self.ENDPOINT_NS + self.BUS_NS for dimension in group)

    def send_ns(self, num_bytes: float, distance: int = 1) -> float:
        """Return one message over the dimension that ``distance`` leads along, in whole nanoseconds."""
        if distance == 0:
            return 0
        link, below = self._whole, 1
        for dimension in self._dimensions:
            if dimension.ranks > 1 and distance >= below:
                link = dimension
            below *= dimension.ranks
        return _message_ns(link, num_bytes) + self.ENDPOINT_NS + self.BUS_NS

    def _group(self, ranks: int, stride: int) -> list[LssDimension]:
        key = (ranks, stride)
        if key not in self._groups:
            self._groups[key] = self._covered(ranks, stride)
        return self._groups[key]

    def _covered(self, ranks: int, stride: int) -> list[LssDimension]:
        """Return the dimensions that a group covers, innermost first."""
        if ranks == 1:
            return []
        if not self._dimensions:
            return [LssDimension(ranks, self._whole.gb_per_s, self._whole.latency_ns)]
        covered: list[LssDimension] = []
        below = 1
        for dimension in self._dimensions:
            if below >= stride and math.prod(one.ranks for one in covered) < ranks and dimension.ranks > 1:
                covered.append(dimension)
            below *= dimension.ranks
        if math.prod(one.ranks for one in covered) != ranks:
            shape = " x ".join(str(one.ranks) for one in self._dimensions)
            raise InputError(f"{ranks} ranks with stride {stride} are no whole dimensions of a network of {shape}")
        return covered

    def _step_ns(self, dimension: LssDimension, num_bytes: float) -> int:
        return _message_ns(dimension, num_bytes / dimension.ranks) + self.ENDPOINT_NS + self.BUS_NS

    def _reduction_ns(self, num_bytes: float) -> int:
        if not self._memory_bytes_per_s:
            return 0
        return math.floor(3 * num_bytes / self._memory_bytes_per_s * NS_PER_S)


def _message_ns(dimension: LssDimension, num_bytes: float) -> int:
    return math.floor(dimension.latency_ns + num_bytes / (dimension.gb_per_s * GIB / 1e9))
