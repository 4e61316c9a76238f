"""What one operation takes on one level of a topology, by one algorithm."""

from __future__ import annotations

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


def span_cost(span: Span, algorithm: Algorithm, operation: Operation, num_bytes: float) -> Cost:
    """Return the cost of ``operation`` on ``num_bytes`` among a span's units.

    Parameters
    ----------
    num_bytes
        The tensor, as `servetwin.network.base.Collectives` counts it, of one rank at this level.
    """
    moves = _moves(span, algorithm, operation)
    byte_ns = NS_PER_S / span.bandwidth_bytes_per_s
    if algorithm.kernel == "protocols":
        return _protocols(span, moves, num_bytes, byte_ns)
    costs = span.level.costs
    if algorithm.kernel == "sends":
        sent = Sent(moves.steps, moves.wire * num_bytes, num_bytes / span.ranks)
        return sends_cost(span.level, span.bandwidth_bytes_per_s, sent)
    if algorithm.kernel == "switch":
        step, start, efficiency = 0.0, costs.switch_start_ns, costs.switch_efficiency
    else:
        step, start, efficiency = costs.one_kernel_step_ns, costs.one_kernel_start_ns, costs.one_kernel_efficiency
    latency = moves.steps * (span.level.latency_ns + step)
    return Cost(start, latency + moves.wire * num_bytes * byte_ns / efficiency)


class Sent(NamedTuple):
    """What a rank sends: over how many steps, how many bytes in all, and to one peer."""

    steps: float
    wire_bytes: float
    peer_bytes: float


def sends_cost(level: Level, bandwidth_bytes_per_s: float, sent: Sent) -> Cost:
    """Return the cost of sends that all start at once, by the cheaper protocol."""
    costs = level.costs
    wire_ns = sent.wire_bytes / bandwidth_bytes_per_s * NS_PER_S
    latency = sent.steps * level.latency_ns
    peer_ns = sent.peer_bytes / (costs.send_gb_per_s * GB) * NS_PER_S
    small = Cost(costs.send_start_ns, latency + max(peer_ns, wire_ns / LL_MOST))
    large = Cost(costs.send_simple_start_ns, latency + wire_ns / costs.send_efficiency)
    return min(small, large, key=_total)


def _total(cost: Cost) -> float:
    return cost.start_ns + cost.body_ns


def _moves(span: Span, algorithm: Algorithm, operation: Operation) -> Moves:
    if span.level.kind in MESHES:
        return mesh_moves(operation, span.sides)
    return algorithm.moves[operation](span.ranks)


def _protocols(span: Span, moves: Moves, num_bytes: float, byte_ns: float) -> Cost:
    """Return the cheapest of NCCL's protocols; a rank handles its own part beside what it sends."""
    costs = span.level.costs
    wire_ns = moves.wire * num_bytes * byte_ns
    own_ns = num_bytes / span.ranks * byte_ns / costs.local_speed
    candidates = (
        Cost(start, moves.steps * (span.level.latency_ns + step) + wire_ns / efficiency + own_ns)
        for start, step, efficiency in costs.protocols
    )
    return min(candidates, key=_total)
