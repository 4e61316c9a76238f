"""Flows that are alike, kept as one: what `servetwin.network.flows` counts with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servetwin.core.units import NS_PER_S

if TYPE_CHECKING:
    from servetwin.network.step_use import StepUse

PARTS = 10**6
"""Rates are whole millionths of a byte per second."""

UNITS_PER_BYTE = PARTS * NS_PER_S
"""Amounts are in (rate x nanosecond)."""

Path = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Bundle:
    """Flows that are sent over one path with one cap and priority, or what one rank of a step sends."""

    number: int
    path: Path
    cap: int
    priority: int
    count: int = 0
    rate: int = 0
    """Of one flow."""
    served: int = 0
    """What a flow would have got that was there from the start, at ``since_ns``."""
    since_ns: int = 0
    ends: list[tuple[int, int]] = field(default_factory=list)
    """When flows are sent, by ``served``, and their numbers: a heap, with cancelled ones until they surface."""
    version: int = 0
    """Of its next end: older ones in the queue of events are out of date."""
    step: StepUse | None = None
    """The step whose collectives it stands for."""

    def served_at(self, now_ns: int) -> int:
        """Return ``served`` as it is now."""
        return self.served + self.rate * (now_ns - self.since_ns)


@dataclass(slots=True, eq=False)
class Flow:
    """One transfer."""

    num_bytes: int
    delay_ns: int
    """From the last byte's sending to its landing."""
    bundle: Bundle | None
    begun: int = 0
    """The bundle's ``served`` when it started."""
