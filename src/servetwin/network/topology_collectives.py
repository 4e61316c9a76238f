"""Collectives on a topology: level by level, each by its cheapest algorithm or by the one that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError, unknown_name
from servetwin.network.algorithms import ALGORITHMS, ENGINE_ALGORITHMS, Algorithm, Operation
from servetwin.network.by_operation import ByOperation
from servetwin.network.composition import all_to_all_ns, parts, through_all_ns, together
from servetwin.network.span_cost import Cost, Sent, allows, sends_cost, span_cost, span_lines
from servetwin.network.topology import Span, Topology

_CACHE_ENTRIES = 1 << 16


class TopologyCollectives(ByOperation):
    """Collectives on a topology; implements `servetwin.network.base.Collectives`.

    A group that lies on one level uses one algorithm there. One that lies on several works level by level
    (`servetwin.network.composition.parts`), or, where that is cheaper, by one ring through all. An all-to-all sends
    over all levels at once.

    Parameters
    ----------
    topology
        Where the accelerators are.
    candidates
        Algorithms among which the cheapest is taken.
    algorithm
        The one to take wherever a level's links can carry it and it knows the operation; None for the cheapest.

    Raises
    ------
    InputError
        For an unknown algorithm, or one that no level can carry; a call, for a group that the topology cannot hold.
    """

    def __init__(
        self, topology: Topology, candidates: Sequence[str] = ENGINE_ALGORITHMS, algorithm: str | None = None
    ) -> None:
        for name in (*candidates, *([algorithm] if algorithm else ())):
            if name not in ALGORITHMS:
                raise unknown_name("algorithm", name, ALGORITHMS)
        self.topology = topology
        self._candidates = [ALGORITHMS[name] for name in candidates]
        self._asked = ALGORITHMS[algorithm] if algorithm else None
        self._spans: dict[tuple[int, int], tuple[Span, ...]] = {}
        self._times: dict[tuple[Operation, float, int, int], float] = {}
        self._lines: dict[tuple[Operation, int, int, bool], list[tuple[float, float]]] = {}
        self._check_asked()

    def send_ns(self, num_bytes: float, distance: int = 1) -> float:
        """Return one message along `Topology.route`; 0 for no distance."""
        if distance == 0:
            return 0.0
        return together(
            [
                sends_cost(way.level, way.bandwidth_bytes_per_s, Sent(way.hops, num_bytes, num_bytes))
                for way in self.topology.route(distance)
            ]
        )

    def algorithm_of(self, operation: Operation, num_bytes: float, ranks: int, stride: int = 1) -> str:
        """Return what is used, level by level: ``"ring on nvlink, tree on network"``."""
        spans = self._group(ranks, stride)
        if operation == "all_to_all" or not spans:
            return ", ".join(f"pairwise on {span.level.name}" for span in spans)
        if self._through_all(operation, spans, num_bytes) < self._by_level(operation, spans, num_bytes):
            return "ring through " + " and ".join(span.level.name for span in spans)
        chosen = ((self._cheapest(*part)[0], part[0]) for part in parts(operation, spans, num_bytes))
        return ", ".join(dict.fromkeys(f"{algorithm.name} on {span.level.name}" for algorithm, span in chosen))

    def _time_ns(self, operation: Operation, num_bytes: float, ranks: int, stride: int) -> float:
        key = (operation, num_bytes, ranks, stride)
        time = self._times.get(key)
        if time is None:
            if len(self._times) >= _CACHE_ENTRIES:
                self._times.clear()
            time = self._times[key] = self._worked_out(operation, num_bytes, ranks, stride)
        return time

    def _worked_out(self, operation: Operation, num_bytes: float, ranks: int, stride: int) -> float:
        spans = self._group(ranks, stride)
        if not spans:
            return 0.0
        if len(spans) == 1:
            lines = self._lines_of(operation, num_bytes, ranks, stride)
            return min([fixed_ns + byte_ns * num_bytes for fixed_ns, byte_ns in lines])
        if operation == "all_to_all":
            return all_to_all_ns(spans, num_bytes)
        by_level = self._by_level(operation, spans, num_bytes)
        return min(by_level, self._through_all(operation, spans, num_bytes))

    def times_ns(
        self, operation: Operation, sizes: NDArray[np.float64], ranks: int, stride: int = 1
    ) -> NDArray[np.float64]:
        """Return the times of an operation for many sizes at once, equal to single calls."""
        if len(self._group(ranks, stride)) != 1:
            return np.array([self._time_ns(operation, size, ranks, stride) for size in sizes.tolist()])
        times = np.empty_like(sizes)
        large = sizes >= self._group(ranks, stride)[0].level.costs.ONE_KERNEL_BYTES
        for part in (large, ~large):
            if part.any():
                fixed_ns, byte_ns = np.array(self._lines_of(operation, float(sizes[part][0]), ranks, stride)).T
                times[part] = np.min(fixed_ns + byte_ns * sizes[part][:, None], axis=1)
        return times

    def _lines_of(self, operation: Operation, num_bytes: float, ranks: int, stride: int) -> list[tuple[float, float]]:
        """Return all ways of doing an operation on one level, each a straight line over the size."""
        (span,) = self._group(ranks, stride)
        key = (operation, ranks, stride, num_bytes >= span.level.costs.ONE_KERNEL_BYTES)
        lines = self._lines.get(key)
        if lines is None:
            lines = self._lines[key] = [
                (line.start_ns + line.latency_ns, line.byte_ns)
                for algorithm in self._ways(span, operation, num_bytes)
                for line in span_lines(span, algorithm, operation)
            ]
        return lines

    def _group(self, ranks: int, stride: int) -> tuple[Span, ...]:
        key = (ranks, stride)
        if key not in self._spans:
            self._spans[key] = self.topology.spans(ranks, stride)
        return self._spans[key]

    def _by_level(self, operation: Operation, spans: Sequence[Span], num_bytes: float) -> float:
        return together([self._cheapest(*part)[1] for part in parts(operation, spans, num_bytes)])

    def _through_all(self, operation: Operation, spans: Sequence[Span], num_bytes: float) -> float:
        if self._asked and self._asked.name != "ring" and operation in self._asked.moves:
            return float("inf")
        return through_all_ns(operation, spans, num_bytes)

    def _cheapest(self, span: Span, operation: Operation, num_bytes: float) -> tuple[Algorithm, Cost]:
        costs = [
            (algorithm, span_cost(span, algorithm, operation, num_bytes))
            for algorithm in self._ways(span, operation, num_bytes)
        ]
        return min(costs, key=lambda pair: pair[1].total_ns)

    def _ways(self, span: Span, operation: Operation, num_bytes: float) -> Sequence[Algorithm]:
        """Return what to choose from on a level; an InputError if that is nothing."""
        if operation == "all_to_all":
            return [ALGORITHMS["pairwise"]]
        usable = self._usable(span, operation, num_bytes)
        if not usable:
            names = ", ".join(algorithm.name for algorithm in self._candidates)
            raise InputError(f"none of the algorithms given ({names}) does {operation} on level {span.level.name}")
        return usable

    def _usable(self, span: Span, operation: Operation, num_bytes: float) -> list[Algorithm]:
        """Return what to choose from on a level: the algorithm asked for where it can be, else the candidates."""
        asked = self._asked
        if asked and operation in asked.moves and allows(span, asked):
            return [asked]
        return [
            algorithm
            for algorithm in self._candidates
            if operation in algorithm.moves
            and allows(span, algorithm)
            and (algorithm.name != "tree" or span.level.trees)
            and (algorithm.kernel != "one_kernel" or num_bytes < span.level.costs.ONE_KERNEL_BYTES)
        ]

    def _check_asked(self) -> None:
        """Refuse an algorithm that no level can carry."""
        if self._asked is None:
            return
        pairs = [Span(level, 2, 1, level.bandwidth_bytes_per_s) for level in self.topology.levels]
        if any(allows(pair, self._asked) for pair in pairs):
            return
        able = [name for name, one in ALGORITHMS.items() if any(allows(pair, one) for pair in pairs)]
        raise InputError(
            f"no level of this topology can carry the algorithm {self._asked.name!r} ({self._asked.summary}); "
            f"it allows {', '.join(able)}",
            where=self.topology.name,
        )
