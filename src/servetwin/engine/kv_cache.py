"""The paged KV cache of an instance: what the engine asks of it, and the version without prefix caching."""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

from servetwin.engine.request import Request

Hits = Sized
"""Cached blocks with which a request begins, as the cache that found them wants them; their number counts."""


class KVCache(Protocol):
    """Blocks are used (referenced), cached (reusable, unreferenced) or free; the last two can be taken."""

    num_blocks: int
    free_blocks: int
    """Blocks that can be taken: free and cached."""
    cached_blocks: int

    def lookup(self, request: Request) -> Hits:
        """Return the cached blocks with which a request's tokens begin."""
        ...

    def missing(self, request: Request, hits: Hits, tokens: int) -> int:
        """Return how many blocks must be taken for a waiting request to hold its first ``tokens`` tokens."""
        ...

    def admit(self, request: Request, hits: Hits, tokens: int) -> None:
        """Give a waiting request its cached blocks and new ones, so that it holds ``tokens`` tokens."""
        ...

    def reserve(self, request: Request, hits: Hits, tokens: int) -> None:
        """Do the same for a request whose KV comes from elsewhere: nobody can find its blocks before it has come."""
        ...

    def extend(self, request: Request, tokens: int) -> None:
        """Give a prefilling request blocks until it holds ``tokens`` tokens; there must be enough."""
        ...

    def take(self, blocks: int) -> None:
        """Take blocks for decoding requests; there must be enough."""
        ...

    def register(self, request: Request, tokens: int) -> None:
        """Let the full blocks of a request's first ``tokens`` tokens be found by others."""
        ...

    def release(self, request: Request, tokens: int) -> None:
        """Give all blocks of a request with ``tokens`` computed tokens back, last block first."""
        ...


class BlockCounter:
    """A KV cache without prefix caching: all blocks are alike, so numbers are enough."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.free_blocks = num_blocks
        self.cached_blocks = 0
        self._block_size = block_size

    def lookup(self, request: Request) -> Hits:
        """Find nothing."""
        return ()

    def missing(self, request: Request, hits: Hits, tokens: int) -> int:
        """Return the blocks of ``tokens`` tokens."""
        return -(-tokens // self._block_size)

    def admit(self, request: Request, hits: Hits, tokens: int) -> None:
        """Take the blocks of ``tokens`` tokens."""
        request.num_blocks = blocks = -(-tokens // self._block_size)
        self.free_blocks -= blocks

    reserve = admit

    def extend(self, request: Request, tokens: int) -> None:
        """Take what is missing to ``tokens`` tokens."""
        blocks = -(-tokens // self._block_size)
        self.free_blocks -= blocks - request.num_blocks
        request.num_blocks = blocks

    def take(self, blocks: int) -> None:
        """Count blocks out."""
        self.free_blocks -= blocks

    def register(self, request: Request, tokens: int) -> None:
        """Do nothing: no block can be found again."""

    def release(self, request: Request, tokens: int) -> None:
        """Count the request's blocks in."""
        self.free_blocks += request.num_blocks
        request.num_blocks = 0
