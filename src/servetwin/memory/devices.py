"""Memory beside an accelerator's own: host, CXL, a peer's, from which weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.errors import InputError
from servetwin.core.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class MemoryDevice:
    """One memory device of a node, as one accelerator of a replica sees it.

    It serves loads first come first served. All ranks of the replica load their parts at the same time, so that each
    gets its part of the bandwidth.

    Attributes
    ----------
    name
        As placements call it.
    capacity_bytes
        What it holds, of all ranks together.
    bandwidth_bytes_per_s
        What it delivers, to all ranks together.
    latency_ns
        From asking to the first byte, once per load.
    sharers
        Accelerators that load from it.
    per_rank_bytes_per_s
        What the link of one accelerator carries; None: no less than the device delivers.
    queued
        Whether it serves one load after the other; else all at once, each at the full rate (LLMServingSim's own memory
        of an accelerator).

    Raises
    ------
    InputError
        For a figure that is not positive.
    """

    name: str
    capacity_bytes: int
    bandwidth_bytes_per_s: float
    latency_ns: float = 0.0
    sharers: int = 1
    per_rank_bytes_per_s: float | None = None
    queued: bool = True

    def __post_init__(self) -> None:
        if self.capacity_bytes < 1 or self.bandwidth_bytes_per_s <= 0 or self.latency_ns < 0 or self.sharers < 1:
            raise InputError(f"memory device {self.name!r} needs a capacity, a bandwidth and a sharer", where=self.name)

    @property
    def rate_bytes_per_s(self) -> float:
        """What one accelerator gets while all load."""
        share = self.bandwidth_bytes_per_s / self.sharers
        return share if self.per_rank_bytes_per_s is None else min(share, self.per_rank_bytes_per_s)

    def load_ns(self, num_bytes: float) -> int:
        """Return how long a load takes, in whole nanoseconds, 0 for nothing."""
        return round(self.latency_ns + num_bytes / self.rate_bytes_per_s * NS_PER_S) if num_bytes else 0
