"""The cohort: all decoding requests that advance together, as a few numbers.

In each round every member gets one token. Nothing of a member changes by that: its context is ``base + round``, its end
is a round known from the start, and whether it needs a block follows from ``base`` modulo the block size. So a round
costs the same for one member and for a thousand.
"""

from __future__ import annotations

import heapq
from itertools import cycle, islice

from servetwin.engine.request import Request


class DecodeCohort:
    """Decoding requests of one instance.

    Attributes
    ----------
    round
        Rounds so far.
    size, kv_tokens
        Members, and the sum of their contexts before the next round.
    counts
        Members by ``base`` modulo the block size.
    lane
        Number of the cohort among those of its instance.
    """

    __slots__ = (
        "_classes",
        "_extremes",
        "_finish",
        "block_size",
        "counts",
        "kv_tokens",
        "lane",
        "last_admission",
        "round",
        "size",
    )

    def __init__(self, block_size: int, *, extremes: bool, members: bool, lane: int = 0) -> None:
        self.lane = lane
        self.round = 0
        self.size = 0
        self.kv_tokens = 0
        self.block_size = block_size
        self.counts = [0] * block_size
        self.last_admission = -1
        """Upper bound of the members' place in the running order."""
        self._finish: dict[int, list[Request]] = {}
        self._classes: list[dict[int, Request]] | None = [{} for _ in range(block_size)] if members else None
        self._extremes = _Extremes() if extremes else None

    def join(self, request: Request, context_tokens: int) -> None:
        """Add a request that has computed ``context_tokens`` and wants more tokens, beginning with the next round."""
        request.start_round = now = self.round
        request.base = base = context_tokens - now
        request.lane = self.lane
        request.finish_round = finish_round = now + request.output_tokens - request.generated_tokens
        self.size += 1
        self.kv_tokens += context_tokens
        self.counts[base % self.block_size] += 1
        if request.admission > self.last_admission:
            self.last_admission = request.admission
        if finish_round in self._finish:
            self._finish[finish_round].append(request)
        else:
            self._finish[finish_round] = [request]
        if self._classes is not None:
            self._classes[base % self.block_size][request.row] = request
        if self._extremes is not None:
            self._extremes.add(request)

    def members(self) -> list[Request]:
        """Return all members (slow; in no order that means anything, but always the same)."""
        return [request for finishing in self._finish.values() for request in finishing]

    def leave(self, request: Request) -> int:
        """Remove a request before its end (preempted or paused); return its context."""
        finishing = self._finish[request.finish_round]
        finishing.remove(request)
        if not finishing:
            del self._finish[request.finish_round]
        self._forget([request])
        return request.base + self.round

    def _forget(self, requests: list[Request]) -> None:
        counts, block_size, now = self.counts, self.block_size, self.round
        kv_tokens = 0
        for request in requests:
            base = request.base
            kv_tokens += base + now
            counts[base % block_size] -= 1
            if self._classes is not None:
                del self._classes[base % block_size][request.row]
            if self._extremes is not None:
                self._extremes.remove(request)
        self.kv_tokens -= kv_tokens
        self.size -= len(requests)

    def advance(self, rounds: int) -> list[Request]:
        """Let ``rounds`` rounds pass (no member's end lies before the last of them); remove and return who ends."""
        self.round += rounds
        self.kv_tokens += rounds * self.size
        finished = self._finish.pop(self.round, None)
        if finished is None:
            return []
        self._forget(finished)
        return finished

    def rounds_to_finish(self, limit: int) -> int:
        """Return how many rounds the next member to finish still needs, at most ``limit``."""
        finish, now = self._finish, self.round
        if limit > len(finish):
            return min(limit, min(finish, default=now + limit) - now)
        for rounds in range(1, limit):
            if now + rounds in finish:
                return rounds
        return limit

    def blocks_needed(self) -> int:
        """Return how many members begin a new block in the next round."""
        return self.counts[-self.round % self.block_size]

    def blocks_of_rounds(self, first: int, stop: int) -> list[int]:
        """Return the same for each of the rounds that come after ``first`` to ``stop - 1`` others."""
        offset = (self.round + first - 1) % self.block_size
        return list(islice(cycle(reversed(self.counts)), offset, offset + stop - first))

    def filling(self, rounds_ahead: int = 0) -> list[Request]:
        """Return the members that fill a block in that round, in running order (needs ``members``)."""
        if self._classes is None:
            return []
        found = self._classes[-(self.round + rounds_ahead + 1) % self.block_size]
        return sorted(found.values(), key=_admission) if len(found) > 1 else list(found.values())

    def extremes(self) -> tuple[int, int]:
        """Return the greatest and the smallest context, 0 and 0 when they are not kept up or nobody is there."""
        if self._extremes is None or self.size == 0:
            return 0, 0
        greatest, smallest = self._extremes.bases()
        return greatest + self.round, smallest + self.round


def _admission(request: Request) -> int:
    return request.admission


class _Extremes:
    """Greatest and smallest base of a changing set: two heaps that drop leavers when they come up."""

    def __init__(self) -> None:
        self._present: set[tuple[int, int]] = set()
        self._greatest: list[tuple[int, int]] = []
        self._smallest: list[tuple[int, int]] = []

    def add(self, request: Request) -> None:
        key = (request.base, request.row)
        self._present.add(key)
        heapq.heappush(self._smallest, key)
        heapq.heappush(self._greatest, (-request.base, request.row))

    def remove(self, request: Request) -> None:
        self._present.remove((request.base, request.row))

    def bases(self) -> tuple[int, int]:
        greatest, smallest, present = self._greatest, self._smallest, self._present
        while (-greatest[0][0], greatest[0][1]) not in present:
            heapq.heappop(greatest)
        while smallest[0] not in present:
            heapq.heappop(smallest)
        return -greatest[0][0], smallest[0][0]
