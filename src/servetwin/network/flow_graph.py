"""The graph that flows run on: nodes and directed links, and the shortest path between two nodes."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from servetwin.core.errors import InputError, unknown_name


@dataclass(frozen=True, slots=True)
class DirectedLink:
    """One direction of a link.

    Attributes
    ----------
    index
        Its number in the graph.
    source, target
        The nodes that it leads from and to.
    bandwidth_bytes_per_s
        Whole bytes per second, at least 1.
    latency_ns
        Of every transfer that crosses it.
    message_ns
        What each further message of a transfer costs that crosses it (see `FlowNetwork.start`).
    """

    index: int
    source: str
    target: str
    bandwidth_bytes_per_s: int
    latency_ns: int
    message_ns: int

    @property
    def name(self) -> str:
        """``source->target``."""
        return f"{self.source}->{self.target}"


class FlowGraph:
    """Devices, hosts, memory tiers, NICs and switches, and the directed links between them.

    Nodes are names; what they stand for is the caller's business. Several links may join the same two nodes; a path
    takes the one with the least latency, then the most bandwidth.
    """

    def __init__(self) -> None:
        self.links: list[DirectedLink] = []
        self._from: dict[str, list[DirectedLink]] = {}
        self._paths: dict[tuple[str, str], tuple[int, ...]] = {}

    @property
    def nodes(self) -> list[str]:
        """All nodes, in the order in which they were added."""
        return list(self._from)

    def has_node(self, name: str) -> bool:
        """Return whether there is a node of this name."""
        return name in self._from

    def add_node(self, name: str) -> None:
        """Add a node, if it is not there yet."""
        self._from.setdefault(name, [])

    def add_link(
        self,
        source: str,
        target: str,
        bandwidth_bytes_per_s: float,
        latency_ns: float = 0,
        *,
        message_ns: float = 0,
        both_ways: bool = True,
    ) -> int:
        """Add a link (and its nodes); return the number of its first direction, the second one's is one more.

        Parameters
        ----------
        source, target
            Two different nodes.
        bandwidth_bytes_per_s
            Of each direction; taken as whole bytes per second.
        latency_ns, message_ns
            Whole nanoseconds, rounded up.
        both_ways
            Whether there is a link from ``target`` to ``source``, too.

        Raises
        ------
        InputError
            If the two nodes are one, the bandwidth is below 1 byte/s, or a time is negative (or not finite).
        """
        where = f"link {source}->{target}"
        if source == target:
            raise InputError("a link joins two different nodes", where=where)
        if not (math.isfinite(bandwidth_bytes_per_s) and bandwidth_bytes_per_s >= 1):
            raise InputError(f"bandwidth must be at least 1 byte/s, got {bandwidth_bytes_per_s!r}", where=where)
        for name, time_ns in (("latency_ns", latency_ns), ("message_ns", message_ns)):
            if not (math.isfinite(time_ns) and time_ns >= 0):
                raise InputError(f"{name} must be at least 0, got {time_ns!r}", where=where)
        index = len(self.links)
        costs = (round(bandwidth_bytes_per_s), math.ceil(latency_ns), math.ceil(message_ns))
        self._add(DirectedLink(index, source, target, *costs))
        if both_ways:
            self._add(DirectedLink(index + 1, target, source, *costs))
        return index

    def _add(self, link: DirectedLink) -> None:
        self.links.append(link)
        self.add_node(link.source)
        self.add_node(link.target)
        self._from[link.source].append(link)
        self._paths.clear()

    def path(self, source: str, target: str) -> tuple[int, ...]:
        """Return the numbers of the links from ``source`` to ``target``; none where they are one node.

        It is the path with the fewest links, of these the one with the least latency, of these the one whose links were
        added first.

        Raises
        ------
        InputError
            If a node does not exist, or no path leads from one to the other; it names both.
        """
        found = self._paths.get((source, target))
        if found is None:
            found = self._paths[source, target] = self._search(source, target)
        return found

    def _search(self, source: str, target: str) -> tuple[int, ...]:
        for node in (source, target):
            if node not in self._from:
                raise unknown_name("node", node, self._from, where=f"path from {source!r} to {target!r}")
        waiting: list[tuple[int, int, tuple[int, ...], str]] = [(0, 0, (), source)]
        done: set[str] = set()
        while waiting:
            hops, latency_ns, path, node = heapq.heappop(waiting)
            if node == target:
                return path
            if node in done:
                continue
            done.add(node)
            for link in self._ways(node):
                if link.target not in done:
                    entry = (hops + 1, latency_ns + link.latency_ns, (*path, link.index), link.target)
                    heapq.heappush(waiting, entry)
        raise InputError(f"no path leads from {source!r} to {target!r}; add a link that joins them")

    def _ways(self, node: str) -> list[DirectedLink]:
        """Return the best link to each neighbour."""
        best: dict[str, DirectedLink] = {}
        for link in self._from[node]:
            other = best.get(link.target)
            if other is None or _cost(link) < _cost(other):
                best[link.target] = link
        return list(best.values())


def _cost(link: DirectedLink) -> tuple[int, int]:
    return link.latency_ns, -link.bandwidth_bytes_per_s
