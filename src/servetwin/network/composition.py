"""How an operation on several levels of a topology is made of operations on one level each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from servetwin.core.units import NS_PER_S
from servetwin.network.algorithms import ALGORITHMS, Operation, mesh_moves
from servetwin.network.span_cost import Cost, Sent, sends_cost
from servetwin.network.topology import MESHES, Span

Part = tuple[Span, Operation, float]
"""One level, what happens on it, and the bytes of its tensor."""


def parts(operation: Operation, spans: Sequence[Span], num_bytes: float) -> list[Part]:
    """Return the operations level by level.

    An all-reduce is a reduce-scatter up to the outermost level but one, an all-reduce there on what is left, and an
    all-gather down. A reduce-scatter goes up and an all-gather down with ever smaller and greater parts; a broadcast
    goes down with the whole tensor.
    """
    if operation == "broadcast":
        return [(span, operation, num_bytes) for span in spans]
    found: list[Part] = []
    size = num_bytes
    for span in spans:
        if operation != "all_reduce" or span is spans[-1]:
            found.append((span, operation, size))
        else:
            found += [(span, "reduce_scatter", size), (span, "all_gather", size)]
        size /= span.ranks
    return found


def together(costs: Sequence[Cost]) -> float:
    """Return the time of parts in a row within one operation, whose start is paid once."""
    return max(cost.start_ns for cost in costs) + sum(cost.body_ns for cost in costs)


def through_all_ns(operation: Operation, spans: Sequence[Span], num_bytes: float) -> float:
    """Return one ring through all levels by the cheapest protocol; infinite where there is none.

    A unit's ranks pass on to each other, the last one to the next unit; there are as many rings as ranks in a unit, so
    that all their links to other units are used (NCCL's rings over several nodes).
    """
    moves = ALGORITHMS["ring"].moves.get(operation)
    if moves is None or len(spans) < 2 or any(span.level.kind in MESHES for span in spans):
        return math.inf
    ranks = math.prod(span.ranks for span in spans)
    rounds = 2 if operation == "all_reduce" else 1
    wire_bytes = moves(ranks).wire * num_bytes
    return min(_ring_ns(spans, rounds, wire_bytes, protocol) for protocol in range(3))


def _ring_ns(spans: Sequence[Span], rounds: int, wire_bytes: float, protocol: int) -> float:
    start = latency = byte_ns = 0.0
    units = math.prod(span.ranks for span in spans)
    for span in spans:
        units //= span.ranks
        begin, step, efficiency = span.level.costs.protocols[protocol]
        start = max(start, begin)
        latency += rounds * units * (span.ranks - 1) * (step + span.level.latency_ns)
        byte_ns = max(byte_ns, NS_PER_S / (span.bandwidth_bytes_per_s * span.members * efficiency))
    return start + latency + wire_bytes * byte_ns


def all_to_all_ns(spans: Sequence[Span], num_bytes: float) -> float:
    """Return an all-to-all over all levels at once: the slowest one counts.

    Over rails, what goes to other positions moves within the unit first and adds to what the level below carries.
    """
    ranks = math.prod(span.ranks for span in spans)
    forwarded = 0.0
    costs: list[Cost] = []
    for span in reversed(spans):
        within = num_bytes * span.members * span.ranks / ranks
        share = (span.ranks - 1) / span.ranks
        steps, wire = (1.0, share) if span.level.kind not in MESHES else mesh_moves("all_to_all", span.sides)
        sent = Sent(steps, wire * within + forwarded, num_bytes / ranks)
        costs.append(sends_cost(span.level, span.bandwidth_bytes_per_s, sent))
        rail = span.level.kind == "rail"
        forwarded = share * within * (span.members - 1) / span.members if rail else 0.0
    return max(cost.start_ns for cost in costs) + max(cost.body_ns for cost in costs)
