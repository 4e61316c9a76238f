"""The KV cache with prefix caching, as vLLM V1 keeps it.

One first-in-first-out queue holds all blocks that nobody references: blocks that can be found by their key, and
anonymous ones. Taking a block takes the oldest; if it had a key, it is forgotten (evicted). A hit takes a block out of
the middle. Two requests that compute the same tokens at the same time both keep their blocks; the older is found.

A request releases its blocks last block first, so whenever a block is there, so are those before it. That is why whole
runs of blocks can be found, referenced and queued at once: they form a tree of runs. Only copies (blocks computed while
others of the same key were there) and what comes behind them are kept as single blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from servetwin.engine.kv_cache import Hits
from servetwin.engine.prefix_runs import Run
from servetwin.engine.request import Request

Shared = Literal["nothing", "prompts", "everything"]


class Block:
    """A single block that can be found by its key."""

    __slots__ = ("key", "references")

    def __init__(self, key: int) -> None:
        self.key = key
        self.references = 1


class AnonymousRun:
    """Some unreferenced blocks, one behind the other in the queue, whose content nobody can find."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class PrefixHits:
    """Cached blocks with which a request begins: a way down the tree, then single blocks.

    Attributes
    ----------
    run, stop
        The last run of the way (the root where there is none), of which only the blocks before ``stop`` are hit.
    blocks
        The single blocks behind them.
    """

    __slots__ = ("blocks", "run", "stop")

    def __init__(self, run: Run, stop: int, blocks: list[Block]) -> None:
        self.run = run
        self.stop = stop
        self.blocks = blocks

    def __len__(self) -> int:
        return self.stop + len(self.blocks)


class PrefixCache:
    """Blocks by content. Keys come from ``Contents.block_keys``: equal keys, equal tokens from the start on.

    Parameters
    ----------
    shared
        Which keys two requests can have in common. Blocks that nobody else can have (``"nothing"``: all of them,
        ``"prompts"``: those that hold tokens of an answer) need to be findable only when they are released, for a
        preempted request to find its own again.
    """

    def __init__(self, num_blocks: int, block_size: int, *, shared: Shared) -> None:
        self.num_blocks = num_blocks
        self.free_blocks = num_blocks
        self.cached_blocks = 0
        self.shared = shared
        self._block_size = block_size
        self._root = Run((), 0, 0, None)
        self._copies: dict[int, list[Block]] = {}
        """Single blocks by key, the oldest first; one in the tree is older than any of them."""
        self._queue: OrderedDict[Block | AnonymousRun | Run, None] = OrderedDict()
        if num_blocks:
            self._queue[AnonymousRun(num_blocks)] = None

    def lookup(self, request: Request) -> PrefixHits:
        """Return the cached blocks with which a request begins; its last known token is always computed."""
        keys = request.keys
        limit = (request.known_tokens - 1) // self._block_size
        run, stop = self._root, 0
        while stop < limit and stop == run.stop:
            child = run.children.get(keys[stop])
            if child is None:
                break
            run, stop = child, child.matched(keys, limit)
        blocks: list[Block] = []
        if self._copies and stop < limit:
            for key in keys[stop:limit]:
                copies = self._copies.get(key)
                if copies is None:
                    break
                blocks.append(copies[0])
        return PrefixHits(run, stop, blocks)

    def missing(self, request: Request, hits: Hits, tokens: int) -> int:
        """Return new blocks plus the hits that lie in the queue: taking those makes the queue shorter, too."""
        assert isinstance(hits, PrefixHits)
        new = -(-tokens // self._block_size) - len(hits)
        queued = sum(block.references == 0 for block in hits.blocks)
        run: Run | None = hits.run
        stop = hits.stop
        while run is not None and run.references == 0:  # what is referenced has all before it referenced
            queued += stop - run.first
            stop = run.first
            run = run.parent
        return (new if new > 0 else 0) + queued

    def admit(self, request: Request, hits: Hits, tokens: int) -> None:
        """Add a reference to the hits, take the rest."""
        self.reserve(request, hits, tokens)
        if self.shared != "nothing":
            self.register(request, tokens)

    def reserve(self, request: Request, hits: Hits, tokens: int) -> None:
        """Do the same, but let nobody find the rest yet."""
        assert isinstance(hits, PrefixHits)
        request.run = hits.run if hits.stop == hits.run.stop else hits.run.split(hits.stop)
        self._reference(request.run)
        for block in hits.blocks:
            if block.references == 0:
                del self._queue[block]
                self.free_blocks -= 1
                self.cached_blocks -= 1
            block.references += 1
        request.blocks = hits.blocks
        request.num_blocks = len(hits)
        self._grow(request, tokens)

    def _reference(self, run: Run) -> None:
        """Add a reference to a run and all before it."""
        while run.parent is not None:
            if run.references == 0:
                self._queue.pop(run, None)  # the first part of a run in the queue never was there itself
                self.free_blocks -= run.stop - run.first
                self.cached_blocks -= run.stop - run.first
            run.references += 1
            run = run.parent

    def extend(self, request: Request, tokens: int) -> None:
        """Take what is missing to ``tokens`` tokens; full blocks can be found at once."""
        self._grow(request, tokens)
        if self.shared != "nothing":
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
            elif isinstance(entry, Run):
                count = entry.stop - entry.first
                if count > blocks:
                    entry.stop -= blocks
                    self.cached_blocks -= blocks
                    return
                blocks -= count
                self.cached_blocks -= count
                entry.forget()
            else:
                self._forget(entry)
                blocks -= 1
            del queue[entry]

    def _forget(self, block: Block) -> None:
        self.cached_blocks -= 1
        copies = self._copies[block.key]
        if len(copies) == 1:
            del self._copies[block.key]
        else:
            copies.remove(block)

    def register(self, request: Request, tokens: int) -> None:
        """Let the full blocks of the first ``tokens`` tokens be found."""
        run = request.run if request.run is not None else self._root
        first, stop = run.stop + len(request.blocks), tokens // self._block_size
        if first >= stop:
            return
        keys = request.keys
        alone = run.references == 1 and not run.children
        if alone and not request.blocks and not self._copies:
            run.keys, run.stop = keys, stop
            return
        # Where the first new block has no older copy, none behind it has one: no block is there without those before.
        if request.blocks or keys[first] in run.children or (self._copies and keys[first] in self._copies):
            self._register_copies(request, first, stop)
        elif alone:
            run.keys, run.stop = keys, stop
        else:
            new = run.children[keys[first]] = request.run = Run(keys, first, stop, run)
            new.references = 1

    def _register_copies(self, request: Request, first: int, stop: int) -> None:
        for key in request.keys[first:stop]:
            block = Block(key)
            request.blocks.append(block)
            copies = self._copies.get(key)
            if copies is None:
                self._copies[key] = [block]
            else:
                copies.append(block)

    def release(self, request: Request, tokens: int) -> None:
        """Put the request's blocks into the queue, last block first, as far as nobody else references them."""
        if self.shared != "everything":
            self.register(request, tokens)
        run = request.run if request.run is not None else self._root
        queue = self._queue
        anonymous = request.num_blocks - run.stop - len(request.blocks)
        if anonymous:
            queue[AnonymousRun(anonymous)] = None
        cached = 0
        for block in reversed(request.blocks):
            block.references -= 1
            if block.references == 0:
                queue[block] = None
                cached += 1
        cached += self._release_runs(run)
        self.free_blocks += anonymous + cached
        self.cached_blocks += cached
        request.run = None
        request.blocks = []
        request.num_blocks = 0

    def _release_runs(self, run: Run) -> int:
        """Drop a reference to a run and all before it; queue those without any. Return how many blocks that were."""
        queue = self._queue
        cached = 0
        last: Run | None = None
        while run.parent is not None:
            run.references -= 1
            parent = run.parent
            if run.references == 0:
                cached += run.stop - run.first
                if last is not None and len(run.children) == 1:
                    last.join_parent()  # they lie one behind the other in the queue: one run
                else:
                    queue[run] = None
                    last = run
            run = parent
        return cached
