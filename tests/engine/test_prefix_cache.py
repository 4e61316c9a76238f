"""The prefix cache of runs equals one of single blocks, whoever comes, grows and goes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.engine.prefix_cache import PrefixCache, Shared
from servetwin.engine.request import Request

BLOCK_SIZE = 2


class PlainBlock:
    """A block, its key (None: nobody can find it) and who holds it."""

    def __init__(self) -> None:
        self.key: int | None = None
        self.references = 0


class PlainCache:
    """One list of unreferenced blocks, the oldest first, and one of all that were registered, in that order."""

    def __init__(self, num_blocks: int) -> None:
        self.queue = [PlainBlock() for _ in range(num_blocks)]
        self.registered: list[PlainBlock] = []

    def lookup(self, keys: list[int], limit: int) -> list[PlainBlock]:
        """Return the oldest block of each key, up to the first key that no block has."""
        hits: list[PlainBlock] = []
        for key in keys[:limit]:
            found = next((block for block in self.registered if block.key == key), None)
            if found is None:
                break
            hits.append(found)
        return hits

    def hold(self, hits: list[PlainBlock]) -> list[PlainBlock]:
        """Add a reference to blocks."""
        for block in hits:
            if block.references == 0:
                self.queue.remove(block)
            block.references += 1
        return list(hits)

    def grow(self, blocks: list[PlainBlock], count: int) -> None:
        """Take the oldest blocks until there are ``count``."""
        while len(blocks) < count:
            block = self.queue.pop(0)
            if block.key is not None:
                self.registered.remove(block)
            block.key, block.references = None, 1
            blocks.append(block)

    def register(self, blocks: list[PlainBlock], keys: list[int], count: int) -> None:
        """Let the first blocks be found."""
        for block, key in zip(blocks[:count], keys, strict=False):
            if block.key is None:
                block.key = key
                self.registered.append(block)

    def release(self, blocks: list[PlainBlock]) -> None:
        """Let go, the last block first."""
        for block in reversed(blocks):
            block.references -= 1
            if block.references == 0:
                self.queue.append(block)


walks = st.lists(st.booleans(), min_size=1, max_size=9).map(
    lambda turns: [sum((1 + turn) * 3**i for i, turn in enumerate(turns[: n + 1])) for n in range(len(turns))]
)
"""Keys of blocks: a walk down a binary tree."""

operations = st.lists(
    st.tuples(
        st.sampled_from(["admit", "reserve", "extend", "release"]), st.integers(0, 99), walks, st.integers(1, 20)
    ),
    max_size=80,
)


class Both:
    """The cache of runs and the plain one, side by side."""

    def __init__(self, num_blocks: int, *, shared: Shared) -> None:
        self.cache = PrefixCache(num_blocks, BLOCK_SIZE, shared=shared)
        self.plain = PlainCache(num_blocks)
        self.running: list[tuple[Request, list[PlainBlock], int]] = []
        """Request, its plain blocks, and tokens so far."""
        self.rows = 0

    def come(self, keys: list[int], tokens: int, *, findable: bool) -> None:
        """Let a request in, if there is room, that shall hold some tokens of its blocks' and one more block's."""
        if self.cache.shared == "nothing":
            keys = [key * 1000 + self.rows for key in keys]
        request = Request(self.rows, (), len(keys) * BLOCK_SIZE + 1, 1)
        request.keys = keys
        self.rows += 1
        hits, plain_hits = self.cache.lookup(request), self.plain.lookup(keys, len(keys))
        assert len(hits) == len(plain_hits)
        tokens = min(max(tokens, len(hits) * BLOCK_SIZE + 1), len(keys) * BLOCK_SIZE + 1)
        count = -(-tokens // BLOCK_SIZE)
        queued = sum(block.references == 0 for block in plain_hits)
        assert self.cache.missing(request, hits, tokens) == count - len(hits) + queued
        if count - len(hits) + queued > len(self.plain.queue):
            return
        blocks = self.plain.hold(plain_hits)
        self.plain.grow(blocks, count)
        if findable:
            self.cache.admit(request, hits, tokens)
        else:
            self.cache.reserve(request, hits, tokens)
        if findable and self.cache.shared != "nothing":
            self.plain.register(blocks, keys, tokens // BLOCK_SIZE)
        self.running.append((request, blocks, tokens))

    def grow(self, number: int, more: int) -> None:
        """Let a request have more tokens, if there is room; what it holds can be found then."""
        request, blocks, tokens = self.running[number]
        tokens = min(tokens + more, len(request.keys) * BLOCK_SIZE + 1)
        count = -(-tokens // BLOCK_SIZE)
        if count - len(blocks) > len(self.plain.queue):
            return
        self.cache.extend(request, tokens)
        self.plain.grow(blocks, count)
        if self.cache.shared != "nothing":
            self.plain.register(blocks, list(request.keys), tokens // BLOCK_SIZE)
        self.running[number] = (request, blocks, tokens)

    def go(self, number: int) -> None:
        """Let a request go."""
        request, blocks, tokens = self.running.pop(number)
        self.cache.release(request, tokens)
        if self.cache.shared != "everything":
            self.plain.register(blocks, list(request.keys), tokens // BLOCK_SIZE)
        self.plain.release(blocks)

    def check(self) -> None:
        """Both have as many blocks free and cached."""
        assert self.cache.free_blocks == len(self.plain.queue)
        assert self.cache.cached_blocks == sum(block.key is not None for block in self.plain.queue)


@pytest.mark.parametrize("shared", ["everything", "prompts", "nothing"])
@settings(max_examples=100)
@given(operations=operations, num_blocks=st.integers(1, 25))
def test_equal_to_single_blocks(
    shared: Shared, operations: list[tuple[str, int, list[int], int]], num_blocks: int
) -> None:
    """Every lookup finds as many blocks, and as many are free and cached after every change."""
    play(Both(num_blocks, shared=shared), operations)


@pytest.mark.parametrize("shared", ["everything", "prompts", "nothing"])
@pytest.mark.parametrize("seed", range(25))
def test_equal_to_single_blocks_for_long(seed: int, shared: Shared) -> None:
    """The same with 300 operations on prompts that mostly go the same way, so that copies and splits are many."""
    source = Random(seed)
    names = ["admit", "admit", "reserve", "extend", "extend", "release"]
    operations = [
        (source.choice(names), source.randrange(100), random_walk(source), source.randint(1, 20)) for _ in range(300)
    ]
    play(Both(source.randint(4, 60), shared=shared), operations)


def random_walk(source: Random) -> list[int]:
    """Return a walk of 1 to 9 blocks that seldom leaves the main way."""
    turns = [source.random() < 0.15 for _ in range(source.randint(1, 9))]
    return [sum((1 + turn) * 3**i for i, turn in enumerate(turns[: n + 1])) for n in range(len(turns))]


def play(both: Both, operations: list[tuple[str, int, list[int], int]]) -> None:
    """Do all operations, then let everybody go; compare after each."""
    num_blocks = both.cache.free_blocks
    for operation, number, keys, tokens in operations:
        if operation in ("admit", "reserve"):
            both.come(keys, tokens, findable=operation == "admit")
        elif both.running and operation == "extend":
            both.grow(number % len(both.running), tokens)
        elif both.running:
            both.go(number % len(both.running))
        both.check()
    while both.running:
        both.go(0)
        both.check()
    assert both.cache.free_blocks == num_blocks


def test_a_long_conversation_stays_few_runs() -> None:
    """A conversation of 300 turns with a growing prompt is one run once its turns have ended: no block is walked."""
    cache = PrefixCache(100_000, 16, shared="everything")
    keys = range(90_000)
    for turn in range(1, 301):
        request = Request(turn, (), turn * 16 * 300, 1)
        request.keys = keys
        hits = cache.lookup(request)
        assert len(hits) == max(0, (turn - 1) * 300)
        cache.admit(request, hits, request.prompt_tokens)
        cache.release(request, request.prompt_tokens)
        (run,) = cache._root.children.values()
        assert (run.stop, run.children) == (turn * 300, {})
