"""The prefix cache of a workload in which no two requests share anything: whole requests instead of single blocks.

Only a preempted request can find its own blocks again. They lie in the queue last block first, so eviction takes them
from the end: what is left of a request is always its first blocks, and one number per request is enough.
"""

from __future__ import annotations

from collections import OrderedDict

from servetwin.engine.kv_cache import Hits
from servetwin.engine.request import Request


class Run:
    """Unreferenced blocks, one behind the other in the queue; of a request's beginning, or of no known content."""

    __slots__ = ("cached", "count", "row")

    def __init__(self, row: int, count: int, *, cached: bool) -> None:
        self.row = row
        self.count = count
        self.cached = cached


class PrivatePrefixCache:
    """Equal to ``PrefixCache`` where no two requests share a key and nobody is preempted who got tokens in the step."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.free_blocks = num_blocks
        self.cached_blocks = 0
        self._block_size = block_size
        self._cached: dict[int, Run] = {}
        self._queue: OrderedDict[Run, None] = OrderedDict()
        if num_blocks:
            self._queue[Run(-1, num_blocks, cached=False)] = None

    def lookup(self, request: Request) -> Hits:
        """Return what is left of a preempted request."""
        run = self._cached.get(request.row)
        return range(run.count) if run is not None else ()

    def missing(self, request: Request, hits: Hits, tokens: int) -> int:
        """Return all blocks of ``tokens`` tokens: its cached ones lie in the queue, too."""
        return -(-tokens // self._block_size)

    def admit(self, request: Request, hits: Hits, tokens: int) -> None:
        """Take what is left of the request out of the queue, and new blocks for the rest."""
        if hits:
            run = self._cached.pop(request.row)
            del self._queue[run]
            self.free_blocks -= run.count
            self.cached_blocks -= run.count
        request.num_blocks = len(hits)
        self.extend(request, tokens)

    reserve = admit

    def extend(self, request: Request, tokens: int) -> None:
        """Take what is missing to ``tokens`` tokens."""
        blocks = -(-tokens // self._block_size)
        if blocks > request.num_blocks:
            self.take(blocks - request.num_blocks)
            request.num_blocks = blocks

    def take(self, blocks: int) -> None:
        """Take the oldest blocks of the queue."""
        self.free_blocks -= blocks
        queue = self._queue
        while blocks > 0:
            run = next(iter(queue))
            taken = min(blocks, run.count)
            blocks -= taken
            run.count -= taken
            if run.cached:
                self.cached_blocks -= taken
            if run.count == 0:
                del queue[run]
                if run.cached:
                    del self._cached[run.row]

    def register(self, request: Request, tokens: int) -> None:
        """Do nothing: a request can find its own blocks only when it has lost them."""

    def release(self, request: Request, tokens: int) -> None:
        """Put the request's blocks into the queue: first the one that is not full, then the full ones."""
        full = tokens // self._block_size
        rest = request.num_blocks - full
        if rest:
            self._queue[Run(-1, rest, cached=False)] = None
        if full:
            run = self._cached[request.row] = Run(request.row, full, cached=True)
            self._queue[run] = None
        self.free_blocks += request.num_blocks
        self.cached_blocks += full
        request.num_blocks = 0
