"""Several tiers below the device, the fastest first: what they hold of a prompt, and what moves between them.

Nothing takes time here. What moves is said (`Recall`, `Write`); the caller lets it travel, as flows or at once, and
tells when it has arrived. What is read stays pinned until then; what is written can be found from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from servetwin.core.errors import InputError
from servetwin.memory.tiers.base import NO_CHUNK
from servetwin.memory.tiers.store import ChunkStore


@dataclass(frozen=True, slots=True)
class Part:
    """Chunks ``first`` to ``first + count`` of a prompt, found in a tier."""

    tier: int
    first: int
    count: int


@dataclass(slots=True)
class Recall:
    """Parts of a prompt that are read from tiers, in order, without a gap."""

    keys: Sequence[int]
    parts: list[Part]
    pins: list[Sequence[int]]

    @property
    def chunks(self) -> int:
        """How many chunks are read."""
        return sum(part.count for part in self.parts)


@dataclass(slots=True)
class Write:
    """Chunks ``first`` to ``count`` of a prompt that a tier does not hold.

    Attributes
    ----------
    source
        The tier that gave them up; None where they come from the device.
    num_bytes
        That have to travel.
    """

    tier: int
    keys: Sequence[int]
    first: int
    count: int
    source: int | None
    num_bytes: int


class KvTiers:
    """The tiers of one instance; any of them may belong to others, too.

    Parameters
    ----------
    tiers
        The fastest first, all of one chunk size.
    write
        ``"through"``: what the device computed is written to every tier; ``"back"``: to the first one, and on to the
        next when a tier gives it up.
    promote
        Whether what was recalled is held by the faster tiers, too, from then on.

    Raises
    ------
    InputError
        If there is no tier, or their chunks differ in size; it names both.
    """

    def __init__(
        self, tiers: Sequence[ChunkStore], *, write: Literal["through", "back"] = "through", promote: bool = True
    ) -> None:
        if not tiers:
            raise InputError("at least one tier is needed")
        if write not in ("through", "back"):
            raise InputError(f"write is {write!r}; allowed: 'through', 'back'")
        for tier in tiers[1:]:
            if tier.chunk_tokens != tiers[0].chunk_tokens:
                names = f"tiers {tiers[0].name!r} and {tier.name!r}"
                sizes = f"{tiers[0].chunk_tokens} and {tier.chunk_tokens} tokens"
                raise InputError(f"{names} have chunks of {sizes}; tiers of one instance have chunks of one size")
        self.tiers = list(tiers)
        self.chunk_tokens = tiers[0].chunk_tokens
        self._write_back = write == "back"
        self._promote = promote

    def peek(self, keys: Sequence[int], first: int = 0) -> int:
        """Return how many chunks from ``first`` on a recall would find, and change nothing (for routers)."""
        place = first
        for tier in self.tiers:
            place += tier.peek(keys, place)
        return place - first

    def recall(self, keys: Sequence[int], now_ns: int, first: int = 0) -> Recall:
        """Look a prompt up from chunk ``first`` on, tier by tier, and keep what is found until `finish_recall`."""
        recall = Recall(keys, [], [])
        place = first
        for number, tier in enumerate(self.tiers):
            if place == len(keys):
                break
            found = tier.lookup(keys, now_ns, place)
            if found:
                recall.parts.append(Part(number, place, found))
                recall.pins.append(tier.pin(keys, place, found))
                place += found
        return recall

    def finish_recall(self, recall: Recall, now_ns: int) -> list[Write]:
        """Let go what was read, and hold it in faster tiers; return what those give up and pass on."""
        for part, pin in zip(recall.parts, recall.pins, strict=True):
            self.tiers[part.tier].unpin(pin)
        writes: list[Write] = []
        if not self._promote or not recall.parts:
            return writes
        end = recall.parts[-1].first + recall.parts[-1].count
        for number in range(recall.parts[-1].tier):
            gone = self.tiers[number].insert(recall.keys, end, now_ns, recall.parts[0].first)
            writes += self._passed_on(number, gone)
        return writes

    def save(self, keys: Sequence[int], count: int) -> list[Write]:
        """Return what has to be written for tiers to hold the first ``count`` chunks of a prompt."""
        writes = []
        for number, tier in enumerate(self.tiers[:1] if self._write_back else self.tiers):
            first = min(tier.peek(keys), count)
            if first < count:
                num_bytes = (count - first) * tier.chunk_bytes
                writes.append(Write(number, keys, first, count, None, num_bytes))
        return writes

    def finish_write(self, write: Write, now_ns: int) -> list[Write]:
        """Hold what has arrived; return what the tier gives up and passes on."""
        first = 0 if write.source is None else write.first
        gone = self.tiers[write.tier].insert(write.keys, write.count, now_ns, first)
        return self._passed_on(write.tier, gone)

    def _passed_on(self, source: int, gone: list[tuple[int, int]]) -> list[Write]:
        """Return the chunks that a tier gave up and the next one lacks, as prompts' parts."""
        if not self._write_back or source + 1 == len(self.tiers):
            return []
        target = self.tiers[source + 1]
        writes = []
        for chain in _chains([pair for pair in gone if pair[1] not in target]):
            first = int(chain[0] != NO_CHUNK)
            keys = chain if first else chain[1:]
            num_bytes = (len(keys) - first) * target.chunk_bytes
            writes.append(Write(source + 1, keys, first, len(keys), source, num_bytes))
        return writes


def _chains(gone: list[tuple[int, int]]) -> list[list[int]]:
    """Return chunks that were given up one after the other, deepest first, as runs: the one before, then the chunks."""
    chains: list[list[int]] = []
    for before, key in gone:
        if chains and chains[-1][-1] == key:
            chains[-1].append(before)
        else:
            chains.append([key, before])
    return [chain[::-1] for chain in chains]
