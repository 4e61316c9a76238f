"""What a request's end releases: the next turn of its session, or the next item of a closed loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from servetwin.cluster.base import FrontEnd
from servetwin.workload.base import NO_PARENT, Workload


class Releases:
    """Decides who arrives when somebody ends.

    Parameters
    ----------
    release
        Called with a row and the time at which it reaches the server.
    """

    def __init__(self, workload: Workload, front_end: FrontEnd, release: Callable[[int, int], None]) -> None:
        self._delay_ns = workload.delay_ns
        self._front_end = front_end
        self._release = release
        self._concurrency = workload.concurrency or 0
        self._children: dict[int, list[int]] = {}
        waits = workload.arrival_ns < 0
        if workload.parent is not None:
            for row in np.flatnonzero(waits & (workload.parent != NO_PARENT)).tolist():
                self._children.setdefault(int(workload.parent[row]), []).append(row)
            waits &= workload.parent == NO_PARENT
        self._items = iter(np.flatnonzero(waits).tolist())
        self.any = bool(self._children or self._concurrency)

    def start(self) -> None:
        """Release the first items of a closed loop."""
        for _ in range(self._concurrency):
            self._release_item(0)

    def after_completion(self, row: int, now_ns: int) -> None:
        """Release whoever waits for a request that completed at the server at ``now_ns``."""
        client_ns = now_ns + self._front_end.response_ns
        children = self._children.get(row)
        if children:
            for child in children:
                self._send(child, client_ns)
        elif self._concurrency:
            self._release_item(client_ns)

    def after_rejection(self, row: int, now_ns: int) -> list[int]:
        """Return all later turns of a rejected request (they are lost with it); a closed loop goes on."""
        lost: list[int] = []
        pending = [row]
        while pending:
            children = self._children.get(pending.pop(0), [])
            lost += children
            pending += children
        if self._concurrency:
            self._release_item(now_ns)
        return lost

    def _release_item(self, client_ns: int) -> None:
        row = next(self._items, None)
        if row is not None:
            self._send(row, client_ns)

    def _send(self, row: int, client_ns: int) -> None:
        delay_ns = int(self._delay_ns[row]) if self._delay_ns is not None else 0
        self._release(row, client_ns + delay_ns + self._front_end.request_ns)
