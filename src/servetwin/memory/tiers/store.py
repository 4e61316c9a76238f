"""A tier of KV: chunks that are found by key, and given up when it is full."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

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
        self.log = TierLog()
        self.hit_chunks = self.missed_chunks = self.stored_chunks = self.evicted_chunks = 0
        self._tree = ChunkTree()
        self._eviction = evictions.get(eviction, where=name)(self._tree, self.capacity_chunks, **options)
        self._pinned: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tree.before)

    def __contains__(self, key: int) -> bool:
        return key in self._tree.before

    @property
    def used_bytes(self) -> int:
        """Bytes of the chunks held."""
        return len(self) * self.chunk_bytes

    def peek(self, keys: Sequence[int], first: int = 0) -> int:
        """Return how many chunks of a prompt from ``first`` on are held without a gap, and change nothing."""
        held = self._tree.before
        if first >= len(keys) or keys[first] not in held:
            return 0
        if not self._tree.gaps:
            places = range(first, len(keys))
            return bisect_left(places, True, key=lambda place: keys[place] not in held)
        found = 0
        for key in keys[first:]:
            if key not in held:
                break
            found += 1
        return found

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
        count = min(count, first + self.capacity_chunks)
        places = self._absent(keys, first, count)
        pin = self._pin_own(keys, first, count, places)
        places, gone = self._make_room(keys, places)
        self.unpin(pin)
        if places:
            self._eviction.added(self._hold(keys, places))
        if found := min(self.peek(keys, first), count - first):
            self._eviction.used(keys, first + found)
        self.stored_chunks += len(places)
        self._write(now_ns)
        return gone

    def _hold(self, keys: Sequence[int], places: Sequence[int]) -> list[int]:
        """Let the tree have the chunks at ``places``; return their keys."""
        first = places[0]
        if not self._tree.gaps and places[-1] - first + 1 == len(places):
            new = list(keys[first : first + len(places)])
            if first == 0 or keys[first - 1] in self._tree.before:
                self._tree.add_chain(new, keys[first - 1] if first else NO_CHUNK)
                return new
        for place in places:
            self._tree.add(keys[place], keys[place - 1] if place else NO_CHUNK)
        return [keys[place] for place in places]

    def _absent(self, keys: Sequence[int], first: int, count: int) -> Sequence[int]:
        """Return the places of the chunks that are not held."""
        start = min(first + self.peek(keys, first), count)
        if not self._tree.gaps:
            return range(start, count)
        held = self._tree.before
        return [place for place in range(start, count) if keys[place] not in held]

    def _pin_own(self, keys: Sequence[int], first: int, count: int, absent: Sequence[int]) -> Sequence[int]:
        """Keep a prompt's own chunks from being given up for others of it."""
        if not self._tree.gaps:
            return self.pin(keys, first, (absent[0] if absent else count) - first)
        pin = [key for key in keys[first:count] if key in self._tree.before]
        for key in pin:
            self._pinned[key] = self._pinned.get(key, 0) + 1
        return pin

    def _make_room(self, keys: Sequence[int], places: Sequence[int]) -> tuple[Sequence[int], list[tuple[int, int]]]:
        """Return the first places that there is room for, and what was given up."""
        room = self.capacity_chunks - len(self)
        if room >= len(places):
            return places, []
        gone = self._eviction.victims(self._pinned, [keys[place] for place in places[room:]])
        self.evicted_chunks += len(gone)
        return places[: room + len(gone)], gone

    def pin(self, keys: Sequence[int], first: int, count: int) -> Sequence[int]:
        """Keep ``count`` held chunks from being given up, while they are read or written; return what `unpin` takes."""
        if not count:
            return ()
        pin = (keys[first + count - 1],) if self._eviction.keeps_prefixes else tuple(keys[first : first + count])
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
        self.log.write(now_ns, len(self), self.hit_chunks, self.missed_chunks, self.stored_chunks, self.evicted_chunks)
