"""Tiers equal plain stores chunk by chunk, and what moves between them adds up."""

from __future__ import annotations

from collections import OrderedDict
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_tiers import NaiveArc, NaiveLfu, NaiveLru, NaiveS3Fifo, NaiveStore

from servetwin.core.errors import InputError
from servetwin.memory.tiers import ChunkStore, KvTiers
from servetwin.testing.evictions import EvictionConformance, random_prompt
from servetwin.workload.coarse import KeyRuns

NAIVE: dict[str, type[NaiveStore]] = {"lru": NaiveLru, "lfu": NaiveLfu, "s3_fifo": NaiveS3Fifo, "arc": NaiveArc}

prompts = st.lists(st.booleans(), min_size=0, max_size=8).map(
    lambda turns: [sum((2 + turn) * 3**i for i, turn in enumerate(turns[: n + 1])) for n in range(-1, len(turns))]
)
"""Walks down a binary tree; the key of a chunk tells the whole way to it."""

operations = st.lists(st.tuples(st.sampled_from(["insert", "lookup", "pin"]), prompts), max_size=60)


class TestLru(EvictionConformance):
    """LRU conforms."""

    policy = "lru"


class TestLfu(EvictionConformance):
    """LFU conforms."""

    policy = "lfu"


class TestS3Fifo(EvictionConformance):
    """S3-FIFO conforms."""

    policy = "s3_fifo"


class TestArc(EvictionConformance):
    """ARC conforms."""

    policy = "arc"


@pytest.mark.parametrize("policy", list(NAIVE))
@settings(max_examples=60)
@given(operations=operations, capacity=st.integers(1, 12))
def test_equal_to_a_plain_store(policy: str, operations: list[tuple[str, list[int]]], capacity: int) -> None:
    """Every lookup finds as much, and every insertion gives up the same chunks in the same order."""
    play(policy, operations, capacity)


@pytest.mark.parametrize("policy", list(NAIVE))
@pytest.mark.parametrize("seed", range(10))
def test_equal_to_a_plain_store_for_long(policy: str, seed: int) -> None:
    """The same with 400 operations on prompts that mostly go the same way."""
    source = Random(seed)
    names = ["insert", "insert", "lookup", "lookup", "pin"]
    operations = [(source.choice(names), random_prompt(source, longest=6 + seed)) for _ in range(400)]
    play(policy, operations, source.randint(3, 30))


def play(policy: str, operations: list[tuple[str, list[int]]], capacity: int) -> None:
    """Do all operations on a tier and on a plain store, and compare after each."""
    store, naive = ChunkStore("tier", capacity, eviction=policy), NAIVE[policy](capacity)
    pins: list[tuple[object, list[int]]] = []
    for now_ns, (operation, keys) in enumerate(operations):
        if operation == "insert":
            assert [key for _, key in store.insert(keys, len(keys), now_ns)] == naive.insert(keys)
        elif operation == "lookup":
            assert store.lookup(keys, now_ns) == naive.lookup(keys)
        elif pins and now_ns % 2:
            pin, pinned = pins.pop()
            store.unpin(pin)  # type: ignore[arg-type]
            for key in pinned:
                naive.pins.remove(key)
        else:
            count = store.peek(keys)
            pins.append((store.pin(keys, 0, count), keys[:count]))
            naive.pins += keys[:count]
        assert {key for key in naive.before if key in store} == set(naive.before)
        assert len(store) == len(naive.before)


@settings(max_examples=50)
@given(operations=operations, capacity=st.integers(1, 9))
def test_lfu_prefers_what_is_used_often(operations: list[tuple[str, list[int]]], capacity: int) -> None:
    """A chunk that was used more often than all others is not the one to go, unless others come behind it."""
    store = ChunkStore("tier", capacity, eviction="lfu")
    hot = [10**6]
    store.insert(hot, 1, 0)
    for _ in range(200):
        store.lookup(hot, 0)
    for now_ns, (_, keys) in enumerate(operations):
        store.insert(keys, min(len(keys), capacity - 1) if capacity > 1 else 0, now_ns)
    assert store.peek(hot) == 1


def test_lookups_do_not_look_at_each_block() -> None:
    """A lookup and an insertion that finds all touch some dozens of keys of a prompt of 100,000 chunks."""

    class Counting(KeyRuns):
        asked = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            Counting.asked += 1
            return super().__getitem__(index)

    keys = Counting([range(60_000), range(200_000, 240_000)])
    for policy in ("lru", "lfu"):
        store = ChunkStore("tier", None, eviction=policy)
        store.insert(keys, 80_000, 0)
        Counting.asked = 0
        assert store.lookup(keys, 1) == 80_000
        store.insert(keys, 80_000, 2)
        assert Counting.asked < 100


def test_an_endless_tier_hits_what_was_there_before() -> None:
    """The hits of an endless tier are the chunks that stood in an earlier prompt: the workload's own hit rate."""
    source, store = Random(5), ChunkStore("tier", None)
    seen: set[int] = set()
    hits = asked = 0
    for now_ns in range(500):
        keys = random_prompt(source)
        hits += sum(key in seen for key in keys)
        asked += len(keys)
        seen |= set(keys)
        store.lookup(keys, now_ns)
        store.insert(keys, len(keys), now_ns)
    assert (store.hit_chunks, store.hit_chunks + store.missed_chunks) == (hits, asked)


def test_the_log_says_what_happened() -> None:
    """The log has a row per time, the sums only grow, and the last row is the present state."""
    store = ChunkStore("host", 5, chunk_tokens=256, chunk_bytes=100)
    for now_ns in range(0, 100, 10):
        keys = random_prompt(Random(now_ns), longest=4)
        store.lookup(keys, now_ns)
        store.insert(keys, len(keys), now_ns)
    assert len(store.log) == 10
    for name in ("time_ns", "hit_chunks", "missed_chunks", "stored_chunks", "evicted_chunks"):
        assert (np.diff(getattr(store.log, name)) >= 0).all()
    used = np.array(store.log.stored_chunks) - np.array(store.log.evicted_chunks)
    assert list(used) == list(store.log.used_chunks)
    assert store.used_bytes == 100 * store.log.used_chunks[-1]


def three(write: str = "through", *, promote: bool = True, sizes: tuple[int, int, int] = (2, 4, 50)) -> KvTiers:
    """Return small tiers."""
    names = ("host", "ssd", "remote")
    tiers = [ChunkStore(name, size, chunk_bytes=10) for name, size in zip(names, sizes, strict=True)]
    return KvTiers(tiers, write=write, promote=promote)  # type: ignore[arg-type]


def save(tiers: KvTiers, keys: list[int], now_ns: int) -> int:
    """Write a prompt and all that follows from it at once; return the bytes that travelled."""
    moved = 0
    writes = tiers.save(keys, len(keys))
    while writes:
        write = writes.pop(0)
        moved += write.num_bytes
        writes += tiers.finish_write(write, now_ns)
    return moved


def test_write_through_fills_every_tier() -> None:
    """Each tier holds as much of a prompt as it can, and a recall reads each part from the fastest that has it."""
    tiers = three(promote=False)
    assert save(tiers, [1, 2, 3, 4, 5, 6], 0) == 180
    assert [len(tier) for tier in tiers.tiers] == [2, 4, 6]
    recall = tiers.recall([1, 2, 3, 4, 5, 6, 7], 1)
    assert [(part.tier, part.first, part.count) for part in recall.parts] == [(0, 0, 2), (1, 2, 2), (2, 4, 2)]
    assert recall.chunks == tiers.peek([1, 2, 3, 4, 5, 6, 7]) == 6
    assert tiers.finish_recall(recall, 2) == []


def test_write_back_passes_on_what_is_given_up() -> None:
    """What the first tier gives up travels to the next one, and can still be recalled, in order."""
    tiers = three("back")
    assert save(tiers, [1, 2], 0) == 20
    assert [len(tier) for tier in tiers.tiers] == [2, 0, 0]
    assert save(tiers, [11, 12], 1) == 40
    assert [len(tier) for tier in tiers.tiers] == [2, 2, 0]
    assert [(part.tier, part.count) for part in tiers.recall([1, 2], 2).parts] == [(1, 2)]


def test_promotion_brings_what_was_recalled_back() -> None:
    """After a recall from a slow tier the fast ones hold it, as far as it fits."""
    tiers = three()
    save(tiers, [1, 2], 0)
    save(tiers, [11, 12], 1)
    assert tiers.tiers[0].peek([1, 2]) == 0
    recall = tiers.recall([1, 2], 2)
    assert [part.tier for part in recall.parts] == [1]
    tiers.finish_recall(recall, 3)
    assert tiers.tiers[0].peek([1, 2]) == 2


def test_what_is_being_read_stays() -> None:
    """Chunks under way are pinned until the recall is finished."""
    tiers = three()
    save(tiers, [1, 2], 0)
    recall = tiers.recall([1, 2], 1)
    save(tiers, [11, 12], 2)
    assert tiers.tiers[0].peek([1, 2]) == 2
    tiers.finish_recall(recall, 3)
    save(tiers, [21, 22], 4)
    assert tiers.tiers[0].peek([1, 2]) == 0


@settings(max_examples=50)
@given(operations=operations, write=st.sampled_from(["through", "back"]), promote=st.booleans())
def test_recalls_find_what_a_plain_search_finds(
    operations: list[tuple[str, list[int]]], write: str, promote: bool
) -> None:
    """Whatever came and went, each tier is read from where the one above it ends, to its first gap."""
    tiers = three(write, promote=promote, sizes=(2, 3, 5))
    for now_ns, (operation, keys) in enumerate(operations):
        if operation == "insert":
            save(tiers, keys, now_ns)
            continue
        wanted, place = [], 0
        for number, tier in enumerate(tiers.tiers):
            start = place
            while place < len(keys) and keys[place] in tier:
                place += 1
            if place > start:
                wanted.append((number, start, place - start))
        assert tiers.peek(keys) == place
        recall = tiers.recall(keys, now_ns)
        assert [(part.tier, part.first, part.count) for part in recall.parts] == wanted
        tiers.finish_recall(recall, now_ns)
        for tier in tiers.tiers:
            held = tier._tree.before
            assert tier._tree.gaps == sum(before != -1 and before not in held for before in held.values())
            for key in {*held, *held.values()} - {-1}:
                followers = sum(before == key for before in held.values())
                assert tier._tree.followers.get(key, int(key in held)) == followers
            assert len(tier) <= tier.capacity_chunks


def test_a_shared_tier_serves_two_instances() -> None:
    """What one instance wrote to a tier that both were given the other one finds; private tiers stay apart."""
    shared = ChunkStore("remote", 10)
    one, other = (KvTiers([ChunkStore("host", 4), shared]) for _ in range(2))
    save(one, [1, 2, 3], 0)
    assert [(part.tier, part.count) for part in other.recall([1, 2, 3], 1).parts] == [(1, 3)]


def test_bad_tiers_are_refused() -> None:
    """Sizes that cannot be, unknown policies and chunks of different sizes are errors that name the tiers."""
    with pytest.raises(InputError, match=r"host: .*smaller than one chunk of 256 tokens"):
        ChunkStore("host", 0)
    with pytest.raises(InputError, match=r"unknown eviction 'lruu'; did you mean 'lru'"):
        ChunkStore("host", 4, eviction="lruu")
    with pytest.raises(InputError, match=r"'host' and 'ssd' have chunks of 256 and 512 tokens"):
        KvTiers([ChunkStore("host", 4), ChunkStore("ssd", 4, chunk_tokens=512)])
    with pytest.raises(InputError, match="write is 'around'"):
        KvTiers([ChunkStore("host", 4)], write="around")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one tier"):
        KvTiers([])


def test_lru_is_the_textbook_s_for_single_chunks() -> None:
    """For prompts of one chunk LRU is an ordered dict."""
    source, store = Random(6), ChunkStore("tier", 10)
    plain: OrderedDict[int, None] = OrderedDict()
    for now_ns in range(2_000):
        key = int(source.expovariate(0.1))
        assert (key in store) == (key in plain)
        store.insert([key], 1, now_ns)
        plain[key] = None
        plain.move_to_end(key)
        if len(plain) > 10:
            plain.popitem(last=False)
