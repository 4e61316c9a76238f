"""LRU and LFU for prefixes: a use costs one entry, however long the prompt.

Using a chunk uses all chunks before it. So a chunk is used at least as lately, and as often, as any behind it, and it
is enough to note a use at its deepest chunk: what a chunk is worth is the greatest time (LRU), or the sum of the uses
(LFU), noted at it and behind it. Only chunks with none behind them can be the next to go; one that goes leaves what was
noted at it to the chunk before it.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Sequence

from servetwin.memory.tiers.base import ChunkTree, evictions

Rank = tuple[int, int]
"""Uses (0 where they do not count) and time of the latest one: the smallest goes first."""

_SPARE = 64


class _PrefixEviction:
    keeps_prefixes = True

    def __init__(self, tree: ChunkTree, capacity_chunks: int) -> None:
        self._tree = tree
        self._uses: dict[int, int] = {}
        self._latest: dict[int, int] = {}
        """Noted at a chunk; no entry: nothing was noted."""
        self._leaves: list[tuple[Rank, int]] = []
        """A heap; entries whose chunk has gone, has others behind it or has another rank are out of date."""
        self._clock = 0

    def _rank(self, key: int) -> Rank:
        return (self._uses.get(key, 0), self._latest.get(key, 0))

    def added(self, keys: Sequence[int]) -> None:
        """Take in chunks; they get their rank when they are used."""
        for key in keys:
            if key not in self._tree.followers:
                self._push(key)

    def used(self, keys: Sequence[int], count: int) -> None:
        """Note a use at the deepest chunk."""
        self._clock += 1
        key = keys[count - 1]
        self._latest[key] = self._clock
        self._count(key, 1)
        if key not in self._tree.followers:
            self._push(key)

    def _count(self, key: int, uses: int) -> None:
        """Note how often; LRU does not count."""

    def _push(self, key: int) -> None:
        heapq.heappush(self._leaves, (self._rank(key), key))
        if len(self._leaves) > 2 * len(self._tree.before) + _SPARE:
            self._leaves = [entry for entry in set(self._leaves) if self._is_next(*entry)]
            heapq.heapify(self._leaves)

    def _is_next(self, rank: Rank, key: int) -> bool:
        return key in self._tree.before and key not in self._tree.followers and rank == self._rank(key)

    def victim(self, pinned: Container[int], incoming: int) -> int | None:
        """Return the leaf of the smallest rank that is not pinned."""
        kept = []
        found = None
        while self._leaves and found is None:
            entry = heapq.heappop(self._leaves)
            if not self._is_next(*entry):
                continue
            if entry[1] in pinned:
                kept.append(entry)
            else:
                found = entry[1]
        for entry in kept:
            heapq.heappush(self._leaves, entry)
        if found is not None:
            self._leave(found)
        return found

    def _leave(self, key: int) -> None:
        """Leave what was noted at a chunk to the one before it, which may be a leaf now."""
        latest, uses = self._latest.pop(key, 0), self._uses.pop(key, 0)
        before = self._tree.before[key]
        if before not in self._tree.before:
            return
        if latest > self._latest.get(before, 0):
            self._latest[before] = latest
        if uses:
            self._count(before, uses)
        if self._tree.followers[before] == 1:
            self._push(before)


@evictions.register("lru")
class LeastRecentlyUsed(_PrefixEviction):
    """The chunk whose latest use lies furthest back; of one prompt's the deepest first."""


@evictions.register("lfu")
class LeastFrequentlyUsed(_PrefixEviction):
    """The chunk that was used least often (it or any behind it), of equals the least recent one."""

    def _count(self, key: int, uses: int) -> None:
        self._uses[key] = self._uses.get(key, 0) + uses
