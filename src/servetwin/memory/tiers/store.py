"""A tier of KV: chunks that are found by key, and given up when it is full."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from servetwin.core.errors import InputError
from servetwin.memory.tiers.base import NO_CHUNK, ChunkTree, evictions
from servetwin.memory.tiers.log import TierLog

_UNLIMITED = 2**62


class ChunkStore:
    """One tier (host memory, CXL memory, a local SSD, a remote store).

    One object may be given to several instances: then it is shared.

    Parameters
    ----------
    name
        For results and errors.
    capacity_chunks
        How many chunks it holds, at least 1; None: as many as come.
    chunk_tokens
        Tokens of a chunk; keys are those of blocks of this size (`Contents.block_keys`).
    chunk_bytes
        Of one chunk's KV.
    eviction
        Name of the policy, and ``options`` its options.

    Raises
    ------
    InputError
        If it is smaller than a chunk, or there is no such policy.
    """

    def __init__(
        self,
        name: str,
        capacity_chunks: int | None,
        chunk_tokens: int = 256,
        chunk_bytes: int = 1,
        eviction: str = "lru",
        **options: object,
    ) -> None:
        if capacity_chunks is not None and capacity_chunks < 1:
            raise InputError(f"the tier is smaller than one chunk of {chunk_tokens} tokens", where=name)
        if chunk_tokens < 1 or chunk_bytes < 1:
            raise InputError("a chunk has at least 1 token and 1 byte", where=name)
        self.name = name
        self.capacity_chunks = _UNLIMITED if capacity_chunks is None else capacity_chunks
        self.chunk_tokens = chunk_tokens
        self.chunk_bytes = chunk_bytes
        self._log = TierLog()
        self.hit_chunks = self.missed_chunks = self.stored_chunks = self.evicted_chunks = 0
        self._tree = ChunkTree()
        self._eviction = evictions.get(eviction, where=name)(self._tree, self.capacity_chunks, **options)
        self._pinned: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tree.before)

    def __contains__(self, key: int) -> bool:
        return key in self._tree.before

    @property
    def log(self) -> TierLog:
        """What happened until now."""
        self._log.flush()
        return self._log

    @property
    def used_bytes(self) -> int:
        """Bytes of the chunks held."""
        return len(self) * self.chunk_bytes

    def peek(self, keys: Sequence[int], first: int = 0) -> int:
        """Return how many chunks of a prompt from ``first`` on are held without a gap, and change nothing."""
        held = self._tree.before
        behind = len(keys)
        if first >= behind or keys[first] not in held:
            return 0
        if self._tree.gaps:
            return sum(1 for _ in takewhile(held.__contains__, keys[first:]))
        known = first + 1
        while known < behind:  # chunks before ``known`` are held, those from ``behind`` on are not
            middle = (known + behind) >> 1
            if keys[middle] in held:
                known = middle + 1
            else:
                behind = middle
        return known - first

    def lookup(self, keys: Sequence[int], now_ns: int, first: int = 0) -> int:
        """Return how many chunks of a prompt from ``first`` on are held without a gap; those count as used."""
        found = self.peek(keys, first)
        if found:
            self._eviction.used(keys, first + found)
        self.hit_chunks += found
        self.missed_chunks += len(keys) - first - found
        self._write(now_ns)
        return found

    def insert(self, keys: Sequence[int], count: int, now_ns: int, first: int = 0) -> list[tuple[int, int]]:
        """Hold a prompt's chunks from ``first`` up to ``count``, as many of the first ones as there can be room for.

        Those held already count as used. Room is made before anything comes in.

        Returns
        -------
        list of (int, int)
            The chunks given up for it: the key of the one before, and its own.
        """
        most = first + self.capacity_chunks
        if count > most:
            count = most
        apart = self._tree.gaps or not self._eviction.keeps_prefixes
        gone, behind = (self._add_apart if apart else self._add_behind)(keys, first, count)
        if behind > first:
            self._eviction.used(keys, behind)
        self._write(now_ns)
        return gone

    def _add_behind(self, keys: Sequence[int], first: int, count: int) -> tuple[list[tuple[int, int]], int]:
        """Add what is missing where all that is held of a prompt is a prefix; return what went, and where it ends."""
        start = first + self.peek(keys, first)
        gone: list[tuple[int, int]] = []
        if start >= count:
            return gone, count
        room = self.capacity_chunks - len(self._tree.before)
        if room < count - start:
            pin = self.pin(keys, first, start - first)
            gone = self._give_up(keys[start + room : count])
            self.unpin(pin)
            count = start + room + len(gone)
        if count > start:
            new = keys[start:count]
            self._tree.add_chain(new, keys[start - 1] if start else NO_CHUNK)
            self._eviction.added(new)
            self.stored_chunks += count - start
        return gone, count

    def _add_apart(self, keys: Sequence[int], first: int, count: int) -> tuple[list[tuple[int, int]], int]:
        """Do the same where any chunk may be held or not."""
        held = self._tree.before
        own = [key for key in keys[first:count] if key in held]
        places = [place for place in range(first, count) if keys[place] not in held]
        gone: list[tuple[int, int]] = []
        room = self.capacity_chunks - len(held)
        if room < len(places):
            self._keep(own)
            gone = self._give_up([keys[place] for place in places[room:]])
            self.unpin(own)
            places = places[: room + len(gone)]
        for place in places:
            self._tree.add(keys[place], keys[place - 1] if place else NO_CHUNK)
        if places:
            self._eviction.added([keys[place] for place in places])
            self.stored_chunks += len(places)
        return gone, min(first + self.peek(keys, first), count)

    def _give_up(self, incoming: Sequence[int]) -> list[tuple[int, int]]:
        """Make room for chunks, as far as there can be; return what was given up."""
        gone = self._eviction.victims(self._pinned, incoming)
        self.evicted_chunks += len(gone)
        return gone

    def pin(self, keys: Sequence[int], first: int, count: int) -> Sequence[int]:
        """Keep ``count`` held chunks from being given up, while they are read or written; return what `unpin` takes."""
        if not count:
            return ()
        behind = first + count
        return self._keep((keys[behind - 1],) if self._eviction.keeps_prefixes else tuple(keys[first:behind]))

    def _keep(self, pin: Sequence[int]) -> Sequence[int]:
        for key in pin:
            self._pinned[key] = self._pinned.get(key, 0) + 1
        return pin

    def unpin(self, pin: Sequence[int]) -> None:
        """Let chunks go again that `pin` kept."""
        for key in pin:
            left = self._pinned[key] - 1
            if left:
                self._pinned[key] = left
            else:
                del self._pinned[key]

    def _write(self, now_ns: int) -> None:
        held = len(self._tree.before)
        self._log.write((now_ns, held, self.hit_chunks, self.missed_chunks, self.stored_chunks, self.evicted_chunks))
