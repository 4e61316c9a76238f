"""Encoders in front of the instances: they encode waiting requests in batches, whose embeddings then travel.

Mirrors encode/prefill/decode disaggregation of vLLM (EC connectors) and SGLang (``--encoder-only``): encoders do
nothing else, a text request never sees them, an instance is chosen when the encoder has answered, and the prompt is
computed when all its embeddings have come.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import EncoderLog, EncoderPool
from servetwin.cluster.embeddings import EmbeddingTransfers
from servetwin.cluster.handovers import EMBEDDING, ENCODER
from servetwin.core.errors import InvariantError
from servetwin.engine.base import NOT_YET


class Encoders:
    """The encoders of one run: one queue, first come first served, and workers that take batches from its front.

    A free worker (of several, the first) takes as many requests as there are, up to ``max_batch_requests``. When their
    batch ends they are routed one after the other, and all their embeddings set out at once, while the worker encodes
    the next batch.

    Parameters
    ----------
    pool
        What the encoders are.
    tokens
        Embeddings of each request, shape ``(requests,)``.
    events
        The event loop's: ends of batches (by worker), then a look at the queue.
    transfers
        What carries embeddings.
    place
        Returns the number of the instance that computes the prompt of a row, None if it is rejected.
    join
        Puts a row into the queue of an instance, by number.
    expect_kv
        Where KV travels over the same network: has an event at its next landing, which may have changed.
    """

    def __init__(
        self,
        pool: EncoderPool,
        tokens: NDArray[np.int64],
        events: list[tuple[int, int, int]],
        transfers: EmbeddingTransfers,
        *,
        place: Callable[[int, int], int | None],
        join: Callable[[int, int, int], None],
        expect_kv: Callable[[], None],
    ) -> None:
        self._pool, self._tokens, self._events, self._transfers = pool, tokens, events, transfers
        self._place, self._join, self._expect_kv = place, join, expect_kv
        self._queue: deque[int] = deque()
        self._free = list(range(pool.workers))
        """Workers that encode nothing: a heap."""
        self._batches: list[list[int]] = [[] for _ in range(pool.workers)]
        self._looks_ns = -1
        """When the queue is looked at next."""
        self._on_the_way: dict[int, tuple[int, int]] = {}
        """Row and instance by the number of the flow that carries the embeddings."""
        self.due_ns: int | None = None
        """When embeddings may land next; other events of landings are out of date."""
        start_ns, end_ns, landed_ns, worker = (array("q", [NOT_YET]) * len(tokens) for _ in range(4))
        self.log = EncoderLog(start_ns, end_ns, landed_ns, worker, pool)

    def take(self, row: int, now_ns: int) -> bool:
        """Take a request that has just arrived; return whether it has something to encode."""
        if not self._tokens[row]:
            return False
        self._queue.append(row)
        self._look_at(now_ns)
        return True

    def act(self, number: int, now_ns: int) -> None:
        """Do what an event of encoders asks for: end a worker's batch, or let free workers begin batches."""
        if number < self._pool.workers:
            self._end(number, now_ns)
            return
        self._looks_ns = -1
        while self._queue and self._free:
            self._begin(heapq.heappop(self._free), now_ns)

    def land(self, now_ns: int) -> None:
        """Let requests join whose embeddings have come over a network of their own."""
        for transfer in self._transfers.advance(now_ns):
            self.land_one(transfer, now_ns)
        self._expect()

    def land_one(self, transfer: int, now_ns: int) -> None:
        """Let the request join whose embeddings a flow carried."""
        row, number = self._on_the_way.pop(transfer)
        self.log.landed_ns[row] = now_ns
        self._join(row, number, now_ns)

    def _look_at(self, now_ns: int) -> None:
        if self._looks_ns != now_ns:
            self._looks_ns = now_ns
            heapq.heappush(self._events, (now_ns, ENCODER, self._pool.workers))

    def _begin(self, worker: int, now_ns: int) -> None:
        count = min(len(self._queue), self._pool.max_batch_requests)
        rows = self._batches[worker] = [self._queue.popleft() for _ in range(count)]
        took_ns = self._pool.time.batch_ns(self._tokens[rows].tolist())
        if took_ns < 1:
            raise InvariantError(f"an encoder's batch takes {took_ns} ns; at least 1 is needed")
        heapq.heappush(self._events, (now_ns + took_ns, ENCODER, worker))
        log = self.log
        for row in rows:
            log.start_ns[row], log.end_ns[row], log.worker[row] = now_ns, now_ns + took_ns, worker

    def _end(self, worker: int, now_ns: int) -> None:
        for row in self._batches[worker]:
            number = self._place(row, now_ns)
            if number is not None:
                transfer = self._transfers.start(now_ns, worker, number, int(self._tokens[row]))
                self._on_the_way[transfer] = row, number
        self._batches[worker] = []
        heapq.heappush(self._free, worker)
        self._look_at(now_ns)
        self._expect()

    def _expect(self) -> None:
        """Have an event at the next landing."""
        if self._transfers.shared:
            self._expect_kv()
            return
        due_ns = self._transfers.next_event_ns()
        if due_ns is not None and due_ns != self.due_ns:
            heapq.heappush(self._events, (due_ns, EMBEDDING, 0))
        self.due_ns = due_ns
