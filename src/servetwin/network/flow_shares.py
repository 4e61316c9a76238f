"""How flows that share links divide their bandwidth: max-min fair, by progressive filling."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Protocol


class Demand(Protocol):
    """Some flows that are alike: they take the same links and the same share."""

    path: tuple[int, ...]
    count: int
    cap: int
    """Most that one of them may take; 0 where nothing but the links limits it."""
    priority: int


def max_min_shares(demands: Sequence[Demand], capacity: Sequence[int]) -> list[int]:
    """Return what one flow of each demand gets.

    Priorities are strict classes: the flows of a class (a smaller number is served first) share what the classes before
    it leave. Within a class all shares grow alike; a flow's share stops where its cap or a full link stops it.
    Shares are whole units, rounded down, so a link is never given out beyond its capacity.

    Parameters
    ----------
    demands
        Flows by kind.
    capacity
        Per link, in the unit of the shares and caps.
    """
    shares = [0] * len(demands)
    left = {link: capacity[link] for demand in demands for link in demand.path}
    for priority in sorted({demand.priority for demand in demands}):
        _fill([i for i, demand in enumerate(demands) if demand.priority == priority], demands, left, shares)
    return shares


def _fill(chosen: list[int], demands: Sequence[Demand], left: dict[int, int], shares: list[int]) -> None:
    """Give the chosen demands their shares of what is ``left``, and take it away there."""
    users: dict[int, list[int]] = {}
    open_flows: dict[int, int] = {}
    for i in chosen:
        for link in demands[i].path:
            users.setdefault(link, []).append(i)
            open_flows[link] = open_flows.get(link, 0) + demands[i].count
    limits = [(left[link] // flows, 0, link) for link, flows in open_flows.items()]
    limits += [(demands[i].cap, 1, i) for i in chosen if demands[i].cap]
    heapq.heapify(limits)
    is_open = set(chosen)
    while is_open:
        share, of_flow, number = heapq.heappop(limits)
        if of_flow:
            stopped = [number] if number in is_open else []
        elif open_flows[number] == 0:
            continue
        elif (now := left[number] // open_flows[number]) > share:
            heapq.heappush(limits, (now, 0, number))
            continue
        else:
            stopped = [i for i in users[number] if i in is_open]
        for i in stopped:
            is_open.discard(i)
            shares[i] = share
            for link in demands[i].path:
                left[link] -= share * demands[i].count
                open_flows[link] -= demands[i].count
