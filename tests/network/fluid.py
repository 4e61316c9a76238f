"""Flows as fluids, written plainly: every share is found anew at every event, by raising all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from servetwin.network.flow_graph import FlowGraph

_EPSILON = 1e-9


@dataclass
class Transfer:
    """One flow as the tests start it."""

    start_ns: int
    path: tuple[int, ...]
    num_bytes: int
    cap_bytes_per_s: float | None = None
    priority: int = 0
    messages: int = 1


def random_graph(random: Random) -> FlowGraph:
    """Return a connected graph of 2 to 8 nodes with some more links, some of them twice."""
    graph = FlowGraph()
    nodes = [f"node{i}" for i in range(random.randint(2, 8))]
    pairs = [(nodes[random.randrange(i)], nodes[i]) for i in range(1, len(nodes))]
    pairs += [tuple(random.sample(nodes, 2)) for _ in range(random.randint(0, 6))]
    for source, target in pairs:
        graph.add_link(
            source, target, random.uniform(1e9, 1e10), random.randint(0, 5000), message_ns=random.choice([0, 700])
        )
    return graph


def random_transfers(random: Random, graph: FlowGraph, most: int) -> list[Transfer]:
    """Return flows in order of their start, many of which overlap, on some paths again and again."""
    pairs = [tuple(random.sample(graph.nodes, 2)) for _ in range(random.randint(1, 6))]
    starts = sorted(random.choice([0, random.randint(0, 2_000_000)]) for _ in range(random.randint(1, most)))
    return [
        Transfer(
            start_ns,
            graph.path(*random.choice(pairs)),
            random.randint(1, 4_000_000),
            random.choice([None, None, random.uniform(2e8, 5e9)]),
            random.choice([0, 0, 1]),
            random.choice([1, 1, 4]),
        )
        for start_ns in starts
    ]


def fluid_rates(graph: FlowGraph, open_flows: list[Transfer]) -> list[float]:
    """Return bytes per second of each flow: all rise alike until a link or a cap stops them; class after class."""
    rates = [0.0] * len(open_flows)
    for priority in sorted({flow.priority for flow in open_flows}):
        rising = {i for i, flow in enumerate(open_flows) if flow.priority == priority}
        while rising:
            room = {link.index: float(link.bandwidth_bytes_per_s) for link in graph.links}
            for i, flow in enumerate(open_flows):
                for link in flow.path:
                    room[link] -= rates[i]
            steps = [(open_flows[i].cap_bytes_per_s or 1e18) - rates[i] for i in rising]
            for link, left in room.items():
                users = sum(link in open_flows[i].path for i in rising)
                if users:
                    steps.append(max(left, 0.0) / users)
            step = min(steps)
            for i in rising:
                rates[i] += step
            full = {link.index for link in graph.links if _is_full(link.index, graph, open_flows, rates)}
            rising = {
                i
                for i in rising
                if not full & set(open_flows[i].path)
                and rates[i] < (open_flows[i].cap_bytes_per_s or 1e18) * (1 - 1e-12)
            }
    return rates


def _is_full(link: int, graph: FlowGraph, open_flows: list[Transfer], rates: list[float]) -> bool:
    used = sum(rate for flow, rate in zip(open_flows, rates, strict=True) if link in flow.path)
    return used >= graph.links[link].bandwidth_bytes_per_s * (1 - _EPSILON)


def fluid_landings(graph: FlowGraph, transfers: list[Transfer]) -> list[float]:
    """Return when each flow lands, in nanoseconds."""
    left = {i: float(flow.num_bytes) for i, flow in enumerate(transfers)}
    landings = [0.0] * len(transfers)
    now = 0.0
    waiting = list(range(len(transfers)))
    running: list[int] = []
    while waiting or running:
        rates = fluid_rates(graph, [transfers[i] for i in running])
        ends = [now + left[i] / rate * 1e9 for i, rate in zip(running, rates, strict=True) if rate > _EPSILON]
        starts = [float(transfers[waiting[0]].start_ns)] if waiting else []
        then = min(ends + starts)
        for i, rate in zip(running, rates, strict=True):
            left[i] -= rate * (then - now) / 1e9
        now = then
        for i in [i for i in running if left[i] <= 1e-3]:
            running.remove(i)
            links = [graph.links[number] for number in transfers[i].path]
            extra = sum(link.latency_ns + (transfers[i].messages - 1) * link.message_ns for link in links)
            landings[i] = now + extra
        while waiting and transfers[waiting[0]].start_ns <= now:
            running.append(waiting.pop(0))
    return landings
