"""Reads and writes of tiers in time: queues at the devices, and writes that have not arrived.

Nothing here needs events: a read's end is known when it is asked for, and a write is carried out when anybody looks at
the tiers after it has arrived, in the order of arrival.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from servetwin.memory.tiers.hierarchy import KvTiers, Recall, Write
from servetwin.memory.tiers.spec import TierDevice, TierSpec, TiersSpec
from servetwin.memory.tiers.store import ChunkStore


class TierTraffic:
    """What moves in and out of the tiers of instances that share some of them.

    Attributes
    ----------
    stores
        By description; filled by `tiers_of`.
    """

    def __init__(self) -> None:
        self.stores: dict[TierSpec, ChunkStore] = {}
        self._reads_until_ns: dict[TierDevice, int] = {}
        self._writes_until_ns: dict[TierDevice, int] = {}
        self._under_way: list[tuple[int, int, TimedTiers, Write]] = []
        self._writes = 0

    def tiers_of(self, spec: TiersSpec) -> TimedTiers:
        """Return an instance's tiers; a store that others have, too, is theirs."""
        for tier in spec.tiers:
            if tier not in self.stores:
                self.stores[tier] = ChunkStore(
                    tier.name, tier.capacity_chunks, spec.chunk_tokens, tier.chunk_bytes, tier.eviction
                )
        return TimedTiers(spec, [self.stores[tier] for tier in spec.tiers], self)

    def settle(self, now_ns: int) -> None:
        """Let all writes arrive that are due by ``now_ns``, and what they push out of a tier set off."""
        under_way = self._under_way
        while under_way and under_way[0][0] <= now_ns:
            due_ns, _, tiers, write = heapq.heappop(under_way)
            tiers.write(tiers.hierarchy.finish_write(write, due_ns), due_ns)

    def read(self, device: TierDevice, num_bytes: int, now_ns: int) -> int:
        """Put a read into a device's queue; return when it ends."""
        start_ns = max(now_ns, self._reads_until_ns.get(device, 0))
        end_ns = start_ns + device.copies * device.duration_ns(num_bytes)
        self._reads_until_ns[device] = end_ns
        return end_ns

    def start_write(self, tiers: TimedTiers, write: Write, now_ns: int) -> int:
        """Put a write into the queue of its tier's device; return when it ends."""
        device = tiers.spec.devices[write.tier]
        start_ns = max(now_ns, self._writes_until_ns.get(device, 0))
        end_ns = start_ns + device.duration_ns(write.num_bytes)
        self._writes_until_ns[device] = end_ns
        heapq.heappush(self._under_way, (end_ns, self._writes, tiers, write))
        self._writes += 1
        return end_ns


class TimedTiers:
    """The tiers of one instance in time."""

    def __init__(self, spec: TiersSpec, stores: Sequence[ChunkStore], traffic: TierTraffic) -> None:
        self.spec = spec
        self.hierarchy = KvTiers(stores, write=spec.write, promote=spec.promote)
        self._traffic = traffic

    def peek(self, keys: Sequence[int], first: int, now_ns: int) -> int:
        """Return how many chunks of a prompt from ``first`` on a recall would find now."""
        self._traffic.settle(now_ns)
        return self.hierarchy.peek(keys, first)

    def recall(self, keys: Sequence[int], first: int, now_ns: int, asked_ns: int) -> tuple[Recall, int, list[int]]:
        """Look a prompt up and read what is found.

        Parameters
        ----------
        asked_ns
            When the tiers are asked, at or after ``now_ns``: those of a step one after the other.

        Returns
        -------
        Recall, int, list of int
            What is read, when the last tier has answered, and when each part has been read.
        """
        recall = self.hierarchy.recall(keys, now_ns, first)
        answered_ns = asked_ns + sum(tier.lookup_ns for tier in self._asked(recall, len(keys) - first))
        ends_ns = []
        for part in recall.parts:
            num_bytes = part.count * self.spec.tiers[part.tier].chunk_bytes
            ends_ns.append(self._traffic.read(self.spec.devices[part.tier], num_bytes, answered_ns))
        return recall, answered_ns, ends_ns

    def _asked(self, recall: Recall, wanted: int) -> Sequence[TierSpec]:
        """Return the tiers that were asked: none after the one that had the last chunk."""
        if recall.chunks < wanted:
            return self.spec.tiers
        return self.spec.tiers[: recall.parts[-1].tier + 1] if wanted else ()

    def finish_recall(self, recall: Recall, now_ns: int) -> None:
        """Let go what was read, and hold it in faster tiers."""
        self._traffic.settle(now_ns)
        self.write(self.hierarchy.finish_recall(recall, now_ns), now_ns)

    def save(self, keys: Sequence[int], count: int, now_ns: int) -> None:
        """Write the first ``count`` chunks of a prompt, as far as tiers lack them."""
        self._traffic.settle(now_ns)
        self.write(self.hierarchy.save(keys, count), now_ns)

    def swap_out(self, keys: Sequence[int], count: int, now_ns: int) -> int:
        """Write the first ``count`` chunks of a prompt to the first tier, as far as it lacks them; return the end."""
        self._traffic.settle(now_ns)
        return self.write([write for write in self.hierarchy.save(keys, count) if write.tier == 0], now_ns)

    def write(self, writes: Sequence[Write], now_ns: int) -> int:
        """Begin writes, and return when the last ends; instant ones arrive at once, with what they push out."""
        end_ns = now_ns
        for write in writes:
            if self.spec.instant_writes:
                self.write(self.hierarchy.finish_write(write, now_ns), now_ns)
            else:
                end_ns = max(end_ns, self._traffic.start_write(self, write, now_ns))
        return end_ns
