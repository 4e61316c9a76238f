"""Waiting queues: first come first served as a deque, any other order as a heap. The head is ``queue[0]``."""

from __future__ import annotations

import bisect
import heapq
from collections import deque

from servetwin.engine.request import Request


class FifoQueue(deque[Request]):
    """Requests by arrival. New ones come last and preempted ones first, so that a deque is almost always in order."""

    def push(self, request: Request) -> None:
        """Add a request at its place (arrivals at one instant come by row, whenever they were released)."""
        if not self or self[-1].order_key < request.order_key:
            self.append(request)
        elif request.order_key < self[0].order_key:
            self.appendleft(request)
        else:
            self.insert(bisect.bisect(self, request), request)


class KeyedQueue(list[Request]):
    """Requests by the key of an ordering, as a heap."""

    def popleft(self) -> Request:
        """Remove and return the head."""
        return heapq.heappop(self)

    def push(self, request: Request) -> None:
        """Add a request (its key ends with its row, so no two are equal)."""
        heapq.heappush(self, request)
