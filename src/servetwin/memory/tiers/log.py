"""What a tier held and answered, over time."""

from __future__ import annotations

from array import array


class TierLog:
    """Columns, one row per time at which something changed: the state after it, and sums since the start.

    Attributes
    ----------
    time_ns
        Ascending.
    used_chunks
        Chunks held.
    hit_chunks, missed_chunks
        Chunks that lookups asked for and found, or did not find.
    stored_chunks, evicted_chunks
        Chunks that came in, and that were given up.
    """

    columns = ("time_ns", "used_chunks", "hit_chunks", "missed_chunks", "stored_chunks", "evicted_chunks")

    def __init__(self) -> None:
        self.time_ns = array("q")
        self.used_chunks = array("q")
        self.hit_chunks = array("q")
        self.missed_chunks = array("q")
        self.stored_chunks = array("q")
        self.evicted_chunks = array("q")

    def write(self, time_ns: int, used: int, hit: int, missed: int, stored: int, evicted: int) -> None:
        """Add a row, or replace the last one if it is of the same time."""
        if self.time_ns and self.time_ns[-1] == time_ns:
            for name in self.columns:
                getattr(self, name).pop()
        self.time_ns.append(time_ns)
        self.used_chunks.append(used)
        self.hit_chunks.append(hit)
        self.missed_chunks.append(missed)
        self.stored_chunks.append(stored)
        self.evicted_chunks.append(evicted)

    def __len__(self) -> int:
        return len(self.time_ns)
