"""The conformance suite of eviction policies: subclass it, say its name, and pytest runs it."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from servetwin.memory.tiers.store import ChunkStore


def random_prompt(source: random.Random, trees: int = 3, longest: int = 12) -> list[int]:
    """Return the keys of a prompt: a walk down one of a few trees with two branches at each chunk."""
    key = source.randrange(trees)
    keys = [key]
    for _ in range(source.randrange(longest)):
        key = (key + 1) * 2 * trees + (source.random() < 0.2)
        keys.append(key)
    return keys


class EvictionConformance:
    """Every eviction policy passes these tests.

    A subclass, named ``Test...``, sets ``policy`` (and ``options``).
    """

    policy: str
    options: ClassVar[dict[str, Any]] = {}

    def store(self, capacity: int | None) -> ChunkStore:
        """Return an empty tier."""
        return ChunkStore("tier", capacity, eviction=self.policy, **self.options)

    def test_nothing_goes_while_there_is_room(self) -> None:
        """A tier that is large enough keeps all that it was given."""
        source, store = random.Random(1), self.store(None)
        given: set[int] = set()
        for now_ns in range(300):
            keys = random_prompt(source)
            given |= set(keys)
            assert store.insert(keys, len(keys), now_ns) == []
            assert store.peek(keys) == len(keys)
        assert len(store) == len(given)
        assert store.evicted_chunks == 0

    def test_never_more_than_fits(self) -> None:
        """Chunks come in and go, they add up, and there are never more than the capacity."""
        source, store = random.Random(2), self.store(9)
        for now_ns in range(600):
            keys = random_prompt(source)
            store.lookup(keys, now_ns)
            gone = store.insert(keys, len(keys), now_ns)
            assert all(key not in store for _, key in gone if key not in keys)
            assert len(store) <= 9
            assert len(store) == store.stored_chunks - store.evicted_chunks
            assert store.peek(keys) >= min(len(keys), 9)
        assert store.evicted_chunks > 0

    def test_pinned_chunks_stay(self) -> None:
        """What is pinned is held until it is let go, whatever else comes; then room can be made again."""
        source, store = random.Random(3), self.store(12)
        for now_ns in range(200):
            keys = random_prompt(source, longest=8)
            store.insert(keys, len(keys), now_ns)
            count = store.peek(keys)
            pin = store.pin(keys, 0, count)
            for _ in range(6):
                other = random_prompt(source)
                store.insert(other, len(other), now_ns)
                assert store.peek(keys) >= count
            store.unpin(pin)
        other = [10**6 + place for place in range(12)]
        store.insert(other, 12, 200)
        assert store.peek(other) == 12

    def test_a_tier_of_pinned_chunks_takes_nothing(self) -> None:
        """Where all chunks are pinned nothing goes, and only what fits comes in."""
        store = self.store(4)
        store.insert([1, 2, 3], 3, 0)
        pin = store.pin([1, 2, 3], 0, 3)
        assert store.insert([7, 8, 9], 3, 1) == []
        assert (store.peek([1, 2, 3]), store.peek([7, 8, 9])) == (3, 1)
        store.unpin(pin)

    def test_equal_histories_give_equal_tiers(self) -> None:
        """The same calls give up the same chunks in the same order."""
        histories = []
        for _ in range(2):
            source, store = random.Random(4), self.store(7)
            gone: list[tuple[int, int]] = []
            for now_ns in range(300):
                keys = random_prompt(source)
                store.lookup(keys, now_ns)
                gone += store.insert(keys, len(keys), now_ns)
            histories.append(gone)
        assert histories[0] == histories[1]
