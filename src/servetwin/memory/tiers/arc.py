"""ARC (Megiddo and Modha, FAST 2003): recency and frequency, balanced by what was given up too soon; chunk by chunk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence

from servetwin.memory.tiers.base import ChunkTree, evictions, one_by_one

_Queue = OrderedDict[int, None]
"""Keys, the least recent first."""


@evictions.register("arc")
class AdaptiveReplacement:
    """Chunks used once (T1) and more often (T2), and the keys of those given up from either (B1, B2).

    A chunk that comes back from B1 says that T1 is too small, one from B2 that it is too large: the size that T1 should
    have moves by 1, or by the ratio of the two ghost lists where that is more.
    """

    keeps_prefixes = False

    def __init__(self, tree: ChunkTree, capacity_chunks: int) -> None:
        self._tree = tree
        self._capacity = capacity_chunks
        self._wanted = 0.0
        """How many chunks T1 should have (the paper's p)."""
        self._once, self._often = _Queue(), _Queue()
        self._once_gone, self._often_gone = _Queue(), _Queue()
        self._returns: dict[int, None] = {}
        """Chunks on their way in that were ghosts."""

    def added(self, keys: Sequence[int]) -> None:
        """Take in new chunks, the deepest first."""
        for key in reversed(keys):
            self._adapt(key)
            if key in self._returns:
                del self._returns[key]
                self._often[key] = None
            else:
                self._once[key] = None
            self._forget_ghosts()

    def used(self, keys: Sequence[int], count: int) -> None:
        """Move the chunks to the recent end of T2, the deepest first."""
        for key in reversed(keys[:count]):
            if key in self._often:
                self._often.move_to_end(key)
            elif key in self._once:
                del self._once[key]
                self._often[key] = None

    def victims(self, pinned: Container[int], incoming: Sequence[int]) -> list[tuple[int, int]]:
        """Give up chunk by chunk."""
        return one_by_one(self._tree, self._victim, pinned, incoming)

    def _victim(self, pinned: Container[int], incoming: int) -> int | None:
        """Return the least recent chunk of T1 if it is larger than it should be, else of T2."""
        was_often = incoming in self._often_gone
        self._adapt(incoming)
        more = len(self._once) > self._wanted or (was_often and len(self._once) == self._wanted)
        pairs = [(self._once, self._once_gone), (self._often, self._often_gone)]
        for queue, gone in pairs if self._once and more else reversed(pairs):
            for key in queue:
                if key not in pinned:
                    del queue[key]
                    gone[key] = None
                    return key
        return None

    def _adapt(self, key: int) -> None:
        """Learn from a chunk that comes back; once, whether room must be made for it or not."""
        once, often = len(self._once_gone), len(self._often_gone)
        if key in self._once_gone:
            self._wanted = min(self._wanted + max(often / once, 1.0), self._capacity)
            del self._once_gone[key]
        elif key in self._often_gone:
            self._wanted = max(self._wanted - max(once / often, 1.0), 0.0)
            del self._often_gone[key]
        else:
            return
        self._returns[key] = None

    def _forget_ghosts(self) -> None:
        """Keep T1 + B1 within the capacity, and all four within twice of it."""
        while self._once_gone and len(self._once) + len(self._once_gone) > self._capacity:
            self._once_gone.popitem(last=False)
        held = len(self._once) + len(self._often)
        while self._often_gone and held + len(self._once_gone) + len(self._often_gone) > 2 * self._capacity:
            self._often_gone.popitem(last=False)
