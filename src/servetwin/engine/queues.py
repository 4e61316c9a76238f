"""Waiting queues: first come first served as a deque, any other order as a heap."""

from __future__ import annotations

import bisect
import heapq
from collections import deque
from collections.abc import Iterator
from operator import attrgetter

from servetwin.engine.request import Request

_ORDER = attrgetter("order_key")


class FifoQueue:
    """Requests by arrival. New ones come last and preempted ones first, so that a deque is almost always in order."""

    def __init__(self) -> None:
        self._items: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._items)

    def head(self) -> Request:
        """Return the next request to be served."""
        return self._items[0]

    def pop(self) -> Request:
        """Remove and return the head."""
        return self._items.popleft()

    def push(self, request: Request) -> None:
        """Add a request at its place (arrivals at one instant come by row, whenever they were released)."""
        items = self._items
        if not items or items[-1].order_key < request.order_key:
            items.append(request)
        elif request.order_key < items[0].order_key:
            items.appendleft(request)
        else:
            items.insert(bisect.bisect(items, request.order_key, key=_ORDER), request)


class KeyedQueue:
    """Requests by the key of an ordering."""

    def __init__(self) -> None:
        self._items: list[tuple[tuple[int, ...], Request]] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, request in self._items)

    def head(self) -> Request:
        """Return the next request to be served."""
        return self._items[0][1]

    def pop(self) -> Request:
        """Remove and return the head."""
        return heapq.heappop(self._items)[1]

    def push(self, request: Request) -> None:
        """Add a request (its key ends with its row, so no two are equal)."""
        heapq.heappush(self._items, (request.order_key, request))
