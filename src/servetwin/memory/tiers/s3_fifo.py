"""S3-FIFO (Yang et al., SOSP 2023): three queues, first in first out, chunk by chunk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence

from servetwin.memory.tiers.base import ChunkTree, evictions, one_by_one

_MOST_USES = 3


@evictions.register("s3_fifo")
class S3Fifo:
    """A small queue for new chunks, a main one for those that were used again, and a ghost queue of keys.

    A chunk enters the small queue, or the main one if its key is among the ghosts. From the small queue's end a chunk
    that was used more than once moves to the main queue; another goes, and its key becomes a ghost. From the main
    queue's end a chunk that was used goes round once more, with one use less; another goes. There are as many ghosts as
    chunks in the main queue.

    Parameters
    ----------
    small_share
        Part of the capacity that the small queue has.
    """

    keeps_prefixes = False

    def __init__(self, tree: ChunkTree, capacity_chunks: int, small_share: float = 0.1) -> None:
        self._tree = tree
        self._small_chunks = max(1, int(capacity_chunks * small_share))
        self._ghosts_at_most = max(1, capacity_chunks - self._small_chunks)
        self._small: OrderedDict[int, int] = OrderedDict()
        self._main: OrderedDict[int, int] = OrderedDict()
        """Uses by key, at most 3; the oldest first."""
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def added(self, keys: Sequence[int]) -> None:
        """Put new chunks at the start of a queue, the deepest first."""
        for key in reversed(keys):
            if key in self._ghosts:
                del self._ghosts[key]
                self._main[key] = 0
            else:
                self._small[key] = 0

    def used(self, keys: Sequence[int], count: int) -> None:
        """Count a use of each chunk."""
        for key in keys[:count]:
            for queue in (self._small, self._main):
                if key in queue:
                    queue[key] = min(queue[key] + 1, _MOST_USES)

    def victims(self, pinned: Container[int], incoming: Sequence[int]) -> list[tuple[int, int]]:
        """Give up chunk by chunk."""
        return one_by_one(self._tree, self._victim, pinned, incoming)

    def _victim(self, pinned: Container[int], incoming: int) -> int | None:
        """Return the next chunk to go; pinned ones go round."""
        if len(self._small) >= self._small_chunks:
            first = self._from_small(pinned)
            return first if first is not None else self._from_main(pinned)
        first = self._from_main(pinned)
        return first if first is not None else self._from_small(pinned)

    def _from_small(self, pinned: Container[int]) -> int | None:
        for _ in range(len(self._small)):
            key, uses = self._small.popitem(last=False)
            if uses > 1:
                self._main[key] = 0
            elif key in pinned:
                self._small[key] = uses
            else:
                self._remember(key)
                return key
        return None

    def _from_main(self, pinned: Container[int]) -> int | None:
        for _ in range(len(self._main) * (_MOST_USES + 1)):
            key, uses = self._main.popitem(last=False)
            if uses == 0 and key not in pinned:
                return key
            self._main[key] = max(uses - 1, 0)
        return None

    def _remember(self, key: int) -> None:
        self._ghosts[key] = None
        if len(self._ghosts) > self._ghosts_at_most:
            self._ghosts.popitem(last=False)
