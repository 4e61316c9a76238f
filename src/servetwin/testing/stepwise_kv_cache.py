"""The stepwise engine's requests and KV cache: every block by its number, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from servetwin.memory.tiers import Recall

if TYPE_CHECKING:
    from servetwin.testing.stepwise_instance import StepwiseBatch


@dataclass(slots=True, eq=False)
class StepwiseRequest:
    """One request and all that is known of it."""

    row: int
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    session_id: str | None = None
    model: str | None = None
    keys: Sequence[int] = ()
    arrival_ns: int = -1
    joined_ns: int = -1
    """When it came to the instance where it is."""
    encoder_tokens: int = 0
    encoder: int = -1
    """Which encoder made its embeddings."""
    encode_ns: int = -1
    encoded_ns: int = -1
    embedded_ns: int = -1
    """When its embeddings were where its prompt is computed."""
    instance: int = -1
    state: str = "unfinished"
    reason: str = ""
    first_scheduled_ns: int = -1
    finish_ns: int = -1
    cached_tokens: int = -1
    recomputed_tokens: int = 0
    preemptions: int = 0
    token_times_ns: list[int] = field(default_factory=list)
    computed: int = 0
    computed_before_preemption: int = 0
    prefilling: bool = True
    remote: Literal["", "wanted", "loading", "landed", "recalled"] = ""
    """How far the KV is that another instance computed, or that it has come from tiers; nothing where it is computed
    here."""
    recall: Recall | None = None
    on_device: int = 0
    """Tokens that the device had when the recall began that no step waits for."""
    prefill_instance: int = -1
    handed_over_ns: int = -1
    transfer_ns: int = -1
    landed_ns: int = -1
    decode_admitted_ns: int = -1
    saved_chunks: int = 0
    """Chunks that it has saved to the tiers since it was admitted last."""
    blocks: list[int] = field(default_factory=list)
    in_flight: list[StepwiseBatch] = field(default_factory=list)
    """The batches that it is in and that have not ended."""

    @property
    def known_tokens(self) -> int:
        """Prompt and generated tokens so far."""
        return self.prompt_tokens + len(self.token_times_ns)


class StepwiseKVCache:
    """Every block by its number: reference counts, keys, and one first-in-first-out free list."""

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.num_blocks = num_blocks
        self.free = list(range(num_blocks))
        self.references = [0] * num_blocks
        self.key_of: dict[int, int] = {}
        self.holders: dict[int, list[int]] = {}

    def lookup(self, request: StepwiseRequest, tokens: int) -> list[int]:
        """Return the longest run of cached blocks of the first ``tokens`` tokens; the last is always computed."""
        hits: list[int] = []
        if not self.enable_prefix_caching:
            return hits
        for key in request.keys[: (tokens - 1) // self.block_size]:
            if not self.holders.get(key):
                break
            hits.append(self.holders[key][0])
        return hits

    def missing(self, request: StepwiseRequest, hits: list[int], tokens: int) -> int:
        """Return how many free blocks it takes to hold ``tokens`` tokens of a request."""
        new = max(0, -(-tokens // self.block_size) - len(request.blocks) - len(hits))
        return new + sum(self.references[block] == 0 for block in hits)

    def allocate(self, request: StepwiseRequest, hits: list[int], tokens: int) -> bool:
        """Give a request the blocks for its first ``tokens`` tokens, all or nothing; full ones become findable."""
        if self.missing(request, hits, tokens) > len(self.free):
            return False
        self.reserve(request, hits, tokens)
        self.register(request, tokens)
        return True

    def reserve(self, request: StepwiseRequest, hits: list[int], tokens: int) -> None:
        """Give a request blocks that nobody can find yet."""
        for block in hits:
            if self.references[block] == 0:
                self.free.remove(block)
            self.references[block] += 1
            request.blocks.append(block)
        while len(request.blocks) * self.block_size < tokens:
            block = self.free.pop(0)
            self._evict(block)
            self.references[block] = 1
            request.blocks.append(block)

    def register(self, request: StepwiseRequest, tokens: int) -> None:
        """Let the full blocks of a request's first ``tokens`` tokens be found."""
        if self.enable_prefix_caching:
            for i in range(tokens // self.block_size):
                block = request.blocks[i]
                if block not in self.key_of:
                    self.key_of[block] = request.keys[i]
                    self.holders.setdefault(request.keys[i], []).append(block)

    def release(self, blocks: list[int]) -> None:
        """Drop a request's references to its blocks, last block first."""
        while blocks:
            block = blocks.pop()
            self.references[block] -= 1
            if self.references[block] == 0:
                self.free.append(block)

    def _evict(self, block: int) -> None:
        key = self.key_of.pop(block, None)
        if key is not None:
            self.holders[key].remove(block)

    @property
    def used_blocks(self) -> int:
        """Referenced blocks."""
        return self.num_blocks - len(self.free)

    @property
    def cached_blocks(self) -> int:
        """Reusable and unreferenced blocks."""
        return sum(block in self.key_of for block in self.free)
