"""Reads and writes of tiers in time: queues at the devices, and writes that have not arrived.

Nothing here needs events: a read's end is known when it is asked for, and a write is carried out when anybody looks at
the tiers after it has arrived, in the order of arrival.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from servetwin.memory.tiers.hierarchy import KvTiers, Recall, Write
from servetwin.memory.tiers.spec import TierDevice, TierSpec, TiersSpec
from servetwin.memory.tiers.store import ChunkStore


class _Queues:
    """What waits at a device: until when it reads and writes, and its writes that have not arrived, in order."""

    __slots__ = ("device", "read_until_ns", "write_until_ns", "writes")

    def __init__(self, device: TierDevice) -> None:
        self.device = device
        self.read_until_ns = self.write_until_ns = 0
        self.writes: deque[tuple[int, int, TimedTiers, Write]] = deque()
        """When each arrives, its number, and where."""

    def read(self, num_bytes: int, now_ns: int) -> int:
        """Put a read into the queue; return when it ends."""
        self.read_until_ns = max(now_ns, self.read_until_ns) + self.device.copies * self.device.duration_ns(num_bytes)
        return self.read_until_ns


class TierTraffic:
    """What moves in and out of the tiers of instances that share some of them.

    Attributes
    ----------
    stores
        By description; filled by `tiers_of`.
    """

    def __init__(self) -> None:
        self.stores: dict[TierSpec, ChunkStore] = {}
        self._queues: dict[TierDevice, _Queues] = {}
        self._first_writes: list[tuple[int, int, _Queues]] = []
        """A heap of the first write of each device that has any: when it arrives, its number, and the device's."""
        self._writes = 0

    def tiers_of(self, spec: TiersSpec) -> TimedTiers:
        """Return an instance's tiers; a store that others have, too, is theirs."""
        for tier in spec.tiers:
            if tier not in self.stores:
                self.stores[tier] = ChunkStore(
                    tier.name, tier.capacity_chunks, spec.chunk_tokens, tier.chunk_bytes, tier.eviction
                )
        return TimedTiers(spec, [self.stores[tier] for tier in spec.tiers], self)

    def queues_of(self, device: TierDevice) -> _Queues:
        """Return what waits at a device."""
        if device not in self._queues:
            self._queues[device] = _Queues(device)
        return self._queues[device]

    def settle(self, now_ns: int) -> None:
        """Let all writes arrive that are due by ``now_ns``, and what they push out of a tier set off."""
        firsts = self._first_writes
        while firsts and firsts[0][0] <= now_ns:
            queues = firsts[0][2]
            due_ns, _, tiers, write = queues.writes.popleft()
            if queues.writes:
                next_ns, number, _, _ = queues.writes[0]
                heapq.heapreplace(firsts, (next_ns, number, queues))
            else:
                heapq.heappop(firsts)
            pushed_out = tiers.hierarchy.finish_write(write, due_ns)
            if pushed_out:
                tiers.write(pushed_out, due_ns)

    def start_write(self, tiers: TimedTiers, write: Write, now_ns: int) -> int:
        """Put a write into the queue of its tier's device; return when it ends."""
        queues = tiers.queues[write.tier]
        start_ns = queues.write_until_ns
        if start_ns < now_ns:
            start_ns = now_ns
        queues.write_until_ns = end_ns = start_ns + queues.device.duration_ns(write.num_bytes)
        number = self._writes
        self._writes = number + 1
        if not queues.writes:
            heapq.heappush(self._first_writes, (end_ns, number, queues))
        queues.writes.append((end_ns, number, tiers, write))
        return end_ns


class TimedTiers:
    """The tiers of one instance in time."""

    def __init__(self, spec: TiersSpec, stores: Sequence[ChunkStore], traffic: TierTraffic) -> None:
        self.spec = spec
        self.hierarchy = KvTiers(stores, write=spec.write, promote=spec.promote)
        self.queues = [traffic.queues_of(device) for device in spec.devices]
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
            ends_ns.append(self.queues[part.tier].read(num_bytes, answered_ns))
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
