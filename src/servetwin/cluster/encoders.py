"""Encoders in front of the router: requests with images wait, are encoded in batches, and come with their embeddings.

Mirrors encode/prefill/decode disaggregation of vLLM (EC connectors) and SGLang (``--encoder-only``): encoders do
nothing else, a text request never sees them, and a prompt is computed when all its embeddings have come.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import EncoderLog, EncoderPool
from servetwin.cluster.handovers import ARRIVAL, ENCODER
from servetwin.core.errors import InvariantError
from servetwin.core.units import NS_PER_S
from servetwin.engine.base import NOT_YET


class Encoders:
    """The encoders of one run: one queue, first come first served, and workers that take batches from its front.

    A worker that is free takes as many requests as there are, up to ``max_batch_requests``. Its port sends the
    embeddings of one request after the other while it encodes the next batch.

    Parameters
    ----------
    pool
        What the encoders are.
    tokens
        Embeddings of each request, shape ``(requests,)``.
    events
        The event loop's: looks at the queue, and requests that arrive with their embeddings.
    """

    def __init__(self, pool: EncoderPool, tokens: NDArray[np.int64], events: list[tuple[int, int, int]]) -> None:
        self._pool, self._tokens, self._events = pool, tokens, events
        self._queue: deque[int] = deque()
        self._free_ns = [0] * pool.workers
        self._port_free_ns = [0] * pool.workers
        self._looks_ns = -1
        start_ns, end_ns, landed_ns, worker = (array("q", [NOT_YET]) * len(tokens) for _ in range(4))
        self.log = EncoderLog(start_ns, end_ns, landed_ns, worker, pool)

    def take(self, row: int, now_ns: int) -> bool:
        """Take a request that has just arrived; return whether it has something to encode."""
        if not self._tokens[row]:
            return False
        self._queue.append(row)
        if self._looks_ns != now_ns:
            self._looks_ns = now_ns
            heapq.heappush(self._events, (now_ns, ENCODER, 0))
        return True

    def look(self, now_ns: int) -> None:
        """Let free workers begin batches."""
        for worker, free_ns in enumerate(self._free_ns):
            if self._queue and free_ns <= now_ns:
                count = min(len(self._queue), self._pool.max_batch_requests)
                self._encode(worker, [self._queue.popleft() for _ in range(count)], now_ns)

    def _encode(self, worker: int, rows: list[int], now_ns: int) -> None:
        tokens = self._tokens[rows].tolist()
        took_ns = self._pool.time.batch_ns(tokens)
        if took_ns < 1:
            raise InvariantError(f"an encoder's batch takes {took_ns} ns; at least 1 is needed")
        end_ns = self._free_ns[worker] = now_ns + took_ns
        heapq.heappush(self._events, (end_ns, ENCODER, 0))
        log = self.log
        for row, count in zip(rows, tokens, strict=True):
            sending_ns = round(count * self._pool.bytes_per_token / self._pool.bandwidth_bytes_per_s * NS_PER_S)
            sent_ns = self._port_free_ns[worker] = max(end_ns, self._port_free_ns[worker]) + sending_ns
            log.start_ns[row], log.end_ns[row], log.worker[row] = now_ns, end_ns, worker
            log.landed_ns[row] = sent_ns + self._pool.latency_ns
            heapq.heappush(self._events, (log.landed_ns[row], ARRIVAL, row))
