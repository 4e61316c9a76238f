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

Rank = tuple[int, int, int]
"""Uses (0 where they do not count), time of the latest one, and key of a chunk: the smallest goes first."""

_SPARE = 64


class _PrefixEviction:
    keeps_prefixes = True

    def __init__(self, tree: ChunkTree, capacity_chunks: int) -> None:
        self._tree = tree
        self._uses: dict[int, int] = {}
        self._latest: dict[int, int] = {}
        """Noted at a chunk; no entry: nothing was noted."""
        self._leaves: list[Rank] = []
        """A heap; entries whose chunk has gone, has others behind it or has another rank are out of date."""
        self._clock = 0
        self._used: list[int] = []
        """Deepest chunks of the uses of which no note was taken yet, in order."""

    def added(self, keys: Sequence[int]) -> None:
        """Take in chunks; they get their rank when they are used."""

    def used(self, keys: Sequence[int], count: int) -> None:
        """Note a use at the deepest chunk; nothing more until somebody has to go."""
        self._used.append(keys[count - 1])

    def _take_note(self) -> None:
        """Give the chunks that were used since the last time their ranks."""
        for key in self._used:
            self._clock = self._latest[key] = self._clock + 1
            self._count(key, 1)
        for key in dict.fromkeys(self._used):
            if self._tree.is_last(key):
                heapq.heappush(self._leaves, self._rank(key))
        self._used.clear()
        if len(self._leaves) > 2 * len(self._tree.before) + _SPARE:
            self._leaves = [entry for entry in set(self._leaves) if self._is_next(entry)]
            heapq.heapify(self._leaves)

    def _count(self, key: int, uses: int) -> None:
        """Note how often; LRU does not count."""

    def _rank(self, key: int) -> Rank:
        return (self._uses.get(key, 0), self._latest.get(key, 0), key)

    def _is_next(self, rank: Rank) -> bool:
        key = rank[2]
        return self._tree.is_last(key) and rank == self._rank(key)

    def victims(self, pinned: Container[int], incoming: Sequence[int]) -> list[tuple[int, int]]:
        """Give up a leaf of the smallest rank that is not pinned for each chunk that comes, one by one."""
        self._take_note()
        kept: list[Rank] = []
        gone: list[tuple[int, int]] = []
        leaves, wanted = self._leaves, len(incoming)
        while leaves and len(gone) < wanted:
            entry = heapq.heappop(leaves)
            if not self._is_next(entry):
                continue
            if entry[2] in pinned:
                kept.append(entry)
            else:
                self._give_up_from(entry[2], pinned, wanted, gone)
        for entry in kept:
            heapq.heappush(leaves, entry)
        return gone

    def _give_up_from(self, key: int, pinned: Container[int], wanted: int, gone: list[tuple[int, int]]) -> None:
        """Give up a leaf, and those before it as long as each is the next to go: without the heap, which is slower."""
        tree, leaves, noted, counted = self._tree, self._leaves, self._latest, self._uses
        held, followers = tree.before, tree.followers
        next_rank = leaves[0] if leaves else None
        latest, uses = noted.pop(key, 0), counted.pop(key, 0)
        del followers[key]  # that it has none; said again of the one that is the last at the end
        while True:
            before = held[key]
            gone.append((before, key))
            if before in followers or before not in held:
                followers[key] = 0
                tree.remove(key)
                self._leave(before, latest, uses)
                return
            del held[key]  # as `ChunkTree.remove` does with a last chunk, the only one behind another
            if before in noted:
                latest = max(latest, noted.pop(before))
            if before in counted:
                uses += counted.pop(before)
            if len(gone) == wanted or before in pinned or (next_rank and next_rank < (uses, latest, before)):
                followers[before] = 0
                self._leave(before, latest, uses)
                heapq.heappush(leaves, self._rank(before))
                return
            key = before

    def _leave(self, before: int, latest: int, uses: int) -> None:
        """Leave what was noted at and behind chunks that went to the one before them, if that is held."""
        if before not in self._tree.before:
            return
        if latest > self._latest.get(before, 0):
            self._latest[before] = latest
        if uses:
            self._count(before, uses)


@evictions.register("lru")
class LeastRecentlyUsed(_PrefixEviction):
    """The chunk whose latest use lies furthest back; of one prompt's the deepest first."""


@evictions.register("lfu")
class LeastFrequentlyUsed(_PrefixEviction):
    """The chunk that was used least often (it or any behind it), of equals the least recent one."""

    def _count(self, key: int, uses: int) -> None:
        self._uses[key] = self._uses.get(key, 0) + uses
