"""What one operation takes on one level of a topology, by one algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from servetwin.core.units import GB, NS_PER_S
from servetwin.network.algorithms import Algorithm, Moves, Operation, mesh_moves
from servetwin.network.topology import MESHES, Level, Span

LL_MOST = 0.5
"""The most that protocol LL makes of a link: half of its bytes are flags."""


class Cost(NamedTuple):
    """A time in two parts: what is paid once per operation, and what is paid on this level."""

    start_ns: float
    body_ns: float

    @property
    def total_ns(self) -> float:
        """Both."""
        return self.start_ns + self.body_ns


def allows(span: Span, algorithm: Algorithm) -> bool:
    """Return whether a level's links can carry an algorithm."""
    level = span.level
    if algorithm.kernel == "switch":
        return level.in_switch_reduction
    if algorithm.kernel == "one_kernel":
        # vLLM 0.19 (``_SUPPORTED_WORLD_SIZES``): 2, 4, 6 or 8 ranks
        return span.members == 1 and span.ranks % 2 == 0 and span.ranks <= level.one_kernel_ranks
    return level.kind not in MESHES or algorithm.name in ("ring", "pairwise")


class Line(NamedTuple):
    """The cost of one way to do an operation, whatever the size of its tensor."""

    start_ns: float
    latency_ns: float
    byte_ns: float

    def cost(self, num_bytes: float) -> Cost:
        """Return the cost for a tensor of so many bytes."""
        return Cost(self.start_ns, self.latency_ns + self.byte_ns * num_bytes)


def span_cost(span: Span, algorithm: Algorithm, operation: Operation, num_bytes: float) -> Cost:
    """Return the cost of ``operation`` on ``num_bytes`` among a span's units.

    Parameters
    ----------
    num_bytes
        The tensor, as `servetwin.network.base.Collectives` counts it, of one rank at this level.
    """
    return min((line.cost(num_bytes) for line in span_lines(span, algorithm, operation)), key=_total)


def span_lines(span: Span, algorithm: Algorithm, operation: Operation) -> Sequence[Line]:
    """Return what an algorithm costs by each of its protocols, of which the cheapest is taken."""
    moves = _moves(span, algorithm, operation)
    byte_ns = NS_PER_S / span.bandwidth_bytes_per_s
    if algorithm.kernel == "protocols":
        return _protocols(span, moves, byte_ns)
    costs = span.level.costs
    if algorithm.kernel == "sends":
        return send_lines(span.level, span.bandwidth_bytes_per_s, Sent(moves.steps, moves.wire, 1 / span.ranks))
    if algorithm.kernel == "switch":
        step, start, efficiency = 0.0, costs.switch_start_ns, costs.switch_efficiency
    else:
        step, start, efficiency = costs.one_kernel_step_ns, costs.one_kernel_start_ns, costs.one_kernel_efficiency
    return [Line(start, moves.steps * (span.level.latency_ns + step), moves.wire * byte_ns / efficiency)]


class Sent(NamedTuple):
    """What a rank sends: over how many steps, how many bytes in all, and to one peer."""

    steps: float
    wire_bytes: float
    peer_bytes: float


def sends_cost(level: Level, bandwidth_bytes_per_s: float, sent: Sent) -> Cost:
    """Return the cost of sends that all start at once, by the cheaper protocol."""
    return min((line.cost(1.0) for line in send_lines(level, bandwidth_bytes_per_s, sent)), key=_total)


def send_lines(level: Level, bandwidth_bytes_per_s: float, sent: Sent) -> Sequence[Line]:
    """Return what sends cost by either protocol, per times the bytes of ``sent``."""
    costs = level.costs
    wire_ns = sent.wire_bytes / bandwidth_bytes_per_s * NS_PER_S
    latency = sent.steps * level.latency_ns
    peer_ns = sent.peer_bytes / (costs.send_gb_per_s * GB) * NS_PER_S
    return [
        Line(costs.send_start_ns, latency, max(peer_ns, wire_ns / LL_MOST)),
        Line(costs.send_simple_start_ns, latency, wire_ns / costs.send_efficiency),
    ]


def _total(cost: Cost) -> float:
    return cost.start_ns + cost.body_ns


def _moves(span: Span, algorithm: Algorithm, operation: Operation) -> Moves:
    if span.level.kind in MESHES:
        return mesh_moves(operation, span.sides)
    return algorithm.moves[operation](span.ranks)


def _protocols(span: Span, moves: Moves, byte_ns: float) -> Sequence[Line]:
    """Return NCCL's protocols; a rank handles its own part beside what it sends."""
    costs = span.level.costs
    own_ns = byte_ns / span.ranks / costs.local_speed
    return [
        Line(start, moves.steps * (span.level.latency_ns + step), moves.wire * byte_ns / efficiency + own_ns)
        for start, step, efficiency in costs.protocols
    ]
