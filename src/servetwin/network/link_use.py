"""What links carried, per interval of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class LinkUse:
    """Bytes per link and interval, where there were any; sorted by interval, then by link.

    Attributes
    ----------
    start_ns
        When the interval begins, shape ``(n,)``.
    link
        Number of the link, shape ``(n,)``.
    moved_bytes
        What it carried then, shape ``(n,)``; not whole where an interval ends within a byte.
    """

    start_ns: NDArray[np.int64]
    link: NDArray[np.int64]
    moved_bytes: NDArray[np.float64]


class LinkMeter:
    """Adds up, per link and interval, what passes.

    Parameters
    ----------
    links
        How many there are.
    interval_ns
        Length of an interval, above 0.
    units_per_byte
        What is metered, per byte: rates are in (units / ns).
    """

    def __init__(self, links: int, interval_ns: int, units_per_byte: int) -> None:
        self.rate = [0] * links
        """What passes now, per link."""
        self._since_ns = [0] * links
        self._interval_ns = interval_ns
        self._units_per_byte = units_per_byte
        self._moved: list[dict[int, int]] = [{} for _ in range(links)]

    def change(self, link: int, by: int, now_ns: int) -> None:
        """Change a link's rate from now on."""
        self.settle(link, now_ns)
        self.rate[link] += by

    def settle(self, link: int, now_ns: int) -> None:
        """Add what passed since the last change."""
        rate, start = self.rate[link], self._since_ns[link]
        self._since_ns[link] = now_ns
        if not rate or start == now_ns:
            return
        moved, width = self._moved[link], self._interval_ns
        for number in range(start // width, -(-now_ns // width)):
            lasts_ns = min(now_ns, (number + 1) * width) - max(start, number * width)
            moved[number] = moved.get(number, 0) + rate * lasts_ns

    def correct(self, link: int, units: int, now_ns: int) -> None:
        """Take back what was counted too much just before now: a flow ends within a nanosecond."""
        self.settle(link, now_ns)
        self._moved[link][(now_ns - 1) // self._interval_ns] -= units

    def total_bytes(self, link: int) -> float:
        """Return all that a link has carried up to its last settling."""
        return sum(self._moved[link].values()) / self._units_per_byte

    def use(self) -> LinkUse:
        """Return what was added up."""
        rows = sorted(
            (number, link, units) for link, moved in enumerate(self._moved) for number, units in moved.items() if units
        )
        start = np.array([number * self._interval_ns for number, _, _ in rows], dtype=np.int64)
        link = np.array([link for _, link, _ in rows], dtype=np.int64)
        moved_bytes = np.array([units / self._units_per_byte for _, _, units in rows], dtype=np.float64)
        return LinkUse(start, link, moved_bytes)
