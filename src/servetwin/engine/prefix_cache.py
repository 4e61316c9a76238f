"""The KV cache with prefix caching, as vLLM V1 keeps it.

One first-in-first-out queue holds all blocks that nobody references: blocks that can be found by their key, and runs
of anonymous ones. Taking a block takes the oldest; if it had a key, it is forgotten (evicted). A hit takes a block out
of the middle. Two requests that compute the same tokens at the same time both keep their blocks; the older is found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from servetwin.engine.request import Request


class Block:
    """A block that can be found by its key."""

    __slots__ = ("key", "references")

    def __init__(self, key: int) -> None:
        self.key = key
        self.references = 1


class AnonymousRun:
    """Some unreferenced blocks, one behind the other in the queue, whose content nobody can find."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class PrefixCache:
    """Blocks by content. Keys come from ``Contents.block_keys``: equal keys, equal tokens from the start on.

    Parameters
    ----------
    shared
        Whether any two requests can have a key in common. If not, blocks need to be findable only when they are
        released (for a preempted request to find its own again).
    """

    def __init__(self, num_blocks: int, block_size: int, *, shared: bool) -> None:
        self.num_blocks = num_blocks
        self.free_blocks = num_blocks
        self.cached_blocks = 0
        self.shared = shared
        self._block_size = block_size
        self._holders: dict[int, list[Block]] = {}
        self._queue: OrderedDict[Block | AnonymousRun, None] = OrderedDict()
        if num_blocks:
            self._queue[AnonymousRun(num_blocks)] = None

    def lookup(self, request: Request) -> Sequence[Block]:
        """Return the cached blocks with which a request begins; its last known token is always computed."""
        hits: list[Block] = []
        holders = self._holders
        keys = request.keys
        for i in range((request.known_tokens - 1) // self._block_size):
            found = holders.get(keys[i])
            if found is None:
                break
            hits.append(found[0])
        return hits

    def missing(self, request: Request, hits: Sequence[Block], tokens: int) -> int:
        """Return new blocks plus the hits that lie in the queue: taking those makes the queue shorter, too."""
        new = -(-tokens // self._block_size) - len(hits)
        return (new if new > 0 else 0) + sum(block.references == 0 for block in hits)

    def admit(self, request: Request, hits: Sequence[Block], tokens: int) -> None:
        """Add a reference to the hits, take the rest."""
        self.reserve(request, hits, tokens)
        if self.shared:
            self.register(request, tokens)

    def reserve(self, request: Request, hits: Sequence[Block], tokens: int) -> None:
        """Do the same, but let nobody find the rest yet."""
        for block in hits:
            if block.references == 0:
                del self._queue[block]
                self.free_blocks -= 1
                self.cached_blocks -= 1
            block.references += 1
        request.blocks = list(hits)
        request.num_blocks = len(hits)
        self._grow(request, tokens)

    def extend(self, request: Request, tokens: int) -> None:
        """Take what is missing to ``tokens`` tokens; full blocks can be found at once."""
        self._grow(request, tokens)
        if self.shared:
            self.register(request, tokens)

    def _grow(self, request: Request, tokens: int) -> None:
        blocks = -(-tokens // self._block_size)
        if blocks > request.num_blocks:
            self.take(blocks - request.num_blocks)
            request.num_blocks = blocks

    def take(self, blocks: int) -> None:
        """Take the oldest blocks of the queue; those with a key are forgotten."""
        self.free_blocks -= blocks
        queue = self._queue
        while blocks > 0:
            entry = next(iter(queue))
            if isinstance(entry, AnonymousRun):
                if entry.count > blocks:
                    entry.count -= blocks
                    return
                blocks -= entry.count
            else:
                self._forget(entry)
                blocks -= 1
            del queue[entry]

    def _forget(self, block: Block) -> None:
        self.cached_blocks -= 1
        holders = self._holders[block.key]
        if len(holders) == 1:
            del self._holders[block.key]
        else:
            holders.remove(block)

    def register(self, request: Request, tokens: int) -> None:
        """Let the full blocks of the first ``tokens`` tokens be found."""
        blocks = request.blocks
        for i in range(len(blocks), tokens // self._block_size):
            key = request.keys[i]
            block = Block(key)
            blocks.append(block)
            holders = self._holders.get(key)
            if holders is None:
                self._holders[key] = [block]
            else:
                holders.append(block)

    def release(self, request: Request, tokens: int) -> None:
        """Put the request's blocks into the queue, last block first, as far as nobody else references them."""
        if not self.shared:
            self.register(request, tokens)
        queue = self._queue
        anonymous = request.num_blocks - len(request.blocks)
        if anonymous:
            queue[AnonymousRun(anonymous)] = None
        freed = anonymous
        cached = 0
        for block in reversed(request.blocks):
            block.references -= 1
            if block.references == 0:
                queue[block] = None
                cached += 1
        self.free_blocks += freed + cached
        self.cached_blocks += cached
        request.blocks = []
        request.num_blocks = 0
