"""A step that uses links of a network (collectives, loads): it slows others down, and is slowed down.

A step computes and communicates by turns, layer by layer, too quickly to follow each turn. While it communicates it
asks for all that its links can carry and gets the share ``s``; the rest of the time it sends nothing. So it lasts

    T = T_alone + max(0, t (1 / s - 1) - h),

where ``t`` is the time that its bytes take alone, and ``h`` is how much longer they may take without delaying it; on
average it takes the part ``t / T`` of its links. Where ``s`` changes in the middle, what is left of the step goes on at
the new speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from servetwin.network.bundles import Bundle

WORK_PER_NS = 10**12
"""What a step does in a nanosecond that it takes alone; what is left of it is counted in whole units."""


@dataclass(slots=True, eq=False)
class StepUse:
    """One step, from when it takes part until its end.

    Attributes
    ----------
    transfer_ns, hidden_ns
        Time that its bytes take alone, and how much longer they may take without delaying it.
    alone_ns
        How long the whole step lasts alone.
    left
        What of that is left at ``since_ns``, in units of ``WORK_PER_NS``.
    bundles, capacity
        One per path, and what the narrowest link of each carries.
    """

    number: int
    transfer_ns: int
    hidden_ns: int
    alone_ns: int
    left: int
    since_ns: int
    bundles: list[Bundle] = field(default_factory=list)
    capacity: list[int] = field(default_factory=list)
    version: int = 0
    speed: int = 0
    """What is done of it in a nanosecond."""

    def ask_for_all(self) -> None:
        """Ask for all that the links carry, as it does while it communicates."""
        for bundle in self.bundles:
            bundle.cap = 0

    def go_on(self, gets: Mapping[Bundle, int], now_ns: int) -> int:
        """Go on with what it gets while it communicates; ask for the average of that; return when it ends."""
        self.left -= self.speed * (now_ns - self.since_ns)
        self.since_ns = now_ns
        slowest_ns = max(
            self.transfer_ns * capacity // max(1, gets[bundle])
            for bundle, capacity in zip(self.bundles, self.capacity, strict=True)
        )
        lasts_ns = self.alone_ns + max(0, slowest_ns - self.transfer_ns - self.hidden_ns)
        self.speed = self.alone_ns * WORK_PER_NS // lasts_ns
        for bundle, capacity in zip(self.bundles, self.capacity, strict=True):
            bundle.cap = max(1, min(gets[bundle], self.transfer_ns * capacity // lasts_ns))
        self.version += 1
        return now_ns - (-self.left // self.speed)
