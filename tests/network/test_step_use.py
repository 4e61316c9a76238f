"""Steps take part in a network of flows: slowed down and slowing down, as a fluid worked out on its own says."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from fluid import Transfer, fluid_rates, random_graph, random_transfers
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.network.flow_graph import FlowGraph
from servetwin.network.flows import FlowNetwork

MS = 1_000_000
GIGABYTE_PER_S = 1e9


def one_link() -> tuple[FlowNetwork, tuple[int, ...]]:
    """Return a network of one link of 1 GB/s, and the way over it."""
    graph = FlowGraph()
    graph.add_link("a", "b", GIGABYTE_PER_S)
    return FlowNetwork(graph), graph.path("a", "b")


def events(net: FlowNetwork) -> tuple[dict[int, int], dict[int, int]]:
    """Return when each flow lands and each step ends."""
    landed: dict[int, int] = {}
    ended: dict[int, int] = {}
    while (at_ns := net.next_event_ns()) is not None:
        landed |= dict.fromkeys(net.advance(at_ns), at_ns)
        ended |= dict.fromkeys(net.steps_ended(), at_ns)
    return landed, ended


@given(st.integers(1, 10**10), st.data())
def test_a_step_alone_lasts_to_the_nanosecond_what_its_closed_form_says(alone_ns: int, data: st.DataObject) -> None:
    """So that sharing changes nothing where nothing is shared."""
    net, path = one_link()
    transfer_ns = data.draw(st.integers(1, alone_ns))
    left_ns = data.draw(st.integers(1, alone_ns))
    step = net.begin_step(1000, [path], transfer_ns, alone_ns, left_ns=left_ns)
    assert events(net) == ({}, {step: 1000 + left_ns})


def test_a_step_and_a_flow_by_hand() -> None:
    """Half of the step is sending: it gets half the link then, lasts 15 ms, and leaves the flow two thirds."""
    net, path = one_link()
    step = net.begin_step(0, [path], 5 * MS, 10 * MS)
    flow = net.start(0, path, 20_000_000)
    landed, ended = events(net)
    assert ended[step] == pytest.approx(15 * MS, abs=2)
    assert landed[flow] == pytest.approx(25 * MS, abs=2)  # 10 MB in 15 ms, the rest alone


def test_hidden_time_is_used_up_before_a_step_lasts_longer() -> None:
    """Loads that computing hides by 3 ms: of the 5 ms that they take longer 2 are left."""
    net, path = one_link()
    step = net.begin_step(0, [path], 5 * MS, 10 * MS, hidden_ns=3 * MS)
    net.start(0, path, 50_000_000)
    assert events(net)[1][step] == pytest.approx(12 * MS, abs=2)


def test_the_slowest_rank_counts() -> None:
    """A step of two ranks whose ports differ in what crosses them."""
    graph = FlowGraph()
    graph.add_link("a", "fabric", GIGABYTE_PER_S)
    graph.add_link("b", "fabric", GIGABYTE_PER_S)
    net = FlowNetwork(graph)
    step = net.begin_step(0, [graph.path("a", "fabric"), graph.path("b", "fabric")], 5 * MS, 10 * MS)
    net.start(0, graph.path("b", "fabric"), 50_000_000)
    net.start(0, graph.path("b", "fabric"), 50_000_000)
    assert events(net)[1][step] == pytest.approx(20 * MS, abs=2)


def test_a_flow_that_comes_or_goes_changes_what_is_left_of_a_step() -> None:
    """A third of the step is done when the flow comes, and it goes before the step ends."""
    net, path = one_link()
    step = net.begin_step(0, [path], 6 * MS, 6 * MS)
    net.advance(2 * MS)
    flow = net.start(2 * MS, path, 1_000_000)
    landed, ended = events(net)
    assert landed[flow] == pytest.approx(4 * MS, abs=2)  # half the link
    assert ended[step] == pytest.approx(7 * MS, abs=2)


@pytest.mark.parametrize("bad", [{"transfer_ns": 0}, {"alone_ns": 0}, {"paths": []}, {"paths": [()]}])
def test_steps_out_of_bounds_are_refused(bad: dict[str, object]) -> None:
    """A step that sends nothing, or nowhere, is none."""
    net, path = one_link()
    with pytest.raises(InputError, match="a step has links and takes at least 1 ns"):
        net.begin_step(0, **({"paths": [path], "transfer_ns": 1, "alone_ns": 1} | bad))  # type: ignore[arg-type]


@dataclass
class Step:
    """A step as the tests start it."""

    start_ns: int
    paths: list[tuple[int, ...]]
    transfer_ns: int
    hidden_ns: int
    alone_ns: int


def random_steps(random: Random, graph: FlowGraph) -> list[Step]:
    """Return steps of one or two ranks that begin at any time."""
    steps = []
    for _ in range(random.randint(1, 6)):
        alone_ns = random.randint(1000, 2_000_000)
        transfer_ns = random.randint(1, alone_ns)
        paths = [graph.path(*random.sample(graph.nodes, 2)) for _ in range(random.choice([1, 1, 2]))]
        hidden_ns = random.choice([0, 0, random.randint(0, alone_ns)])
        steps.append(Step(random.randint(0, 2_000_000), paths, transfer_ns, hidden_ns, alone_ns))
    return steps


def fluid(graph: FlowGraph, transfers: list[Transfer], steps: list[Step]) -> tuple[list[float], list[float]]:
    """Return when flows are sent, and when steps end: all shares found anew at every event, in real numbers."""
    sent, ended = [0.0] * len(transfers), [0.0] * len(steps)
    left = [float(flow.num_bytes) for flow in transfers]
    undone = [1.0] * len(steps)
    starts = sorted({float(x.start_ns) for x in (*transfers, *steps)})
    now = 0.0
    while True:
        flows = [i for i, flow in enumerate(transfers) if flow.start_ns <= now and left[i] > 1e-3]
        running = [i for i, step in enumerate(steps) if step.start_ns <= now and undone[i] > 1e-12]
        rates, lasts = shares(graph, [transfers[i] for i in flows], [steps[i] for i in running])
        times = [start - now for start in starts if start > now]
        times += [left[i] / rate * 1e9 for i, rate in zip(flows, rates, strict=True) if rate > 1e-9]
        times += [undone[i] * last for i, last in zip(running, lasts, strict=True)]
        if not times:
            return sent, ended
        for i, rate in zip(flows, rates, strict=True):
            left[i] -= rate * min(times) / 1e9
            if left[i] <= 1e-3:
                sent[i] = now + min(times)
        for i, last in zip(running, lasts, strict=True):
            undone[i] -= min(times) / last
            if undone[i] <= 1e-12:
                ended[i] = now + min(times)
        now += min(times)


def shares(graph: FlowGraph, flows: list[Transfer], steps: list[Step]) -> tuple[list[float], list[float]]:
    """Return the rate of each flow, and how long each step lasts with what it gets."""
    ranks = [(step, Transfer(0, path, 0)) for step in steps for path in step.paths]
    gets = fluid_rates(graph, [*flows, *(rank for _, rank in ranks)])[len(flows) :]
    whole = [min(graph.links[link].bandwidth_bytes_per_s for link in rank.path) for _, rank in ranks]
    lasts = []
    for step in steps:
        slowest = max(w / g for (own, _), w, g in zip(ranks, whole, gets, strict=True) if own is step)
        lasts.append(step.alone_ns + max(0.0, step.transfer_ns * (slowest - 1.0) - step.hidden_ns))
    by_step = {id(step): last for step, last in zip(steps, lasts, strict=True)}
    for (step, rank), width, got in zip(ranks, whole, gets, strict=True):
        rank.cap_bytes_per_s = min(got, width * step.transfer_ns / by_step[id(step)])
    return fluid_rates(graph, [*flows, *(rank for _, rank in ranks)])[: len(flows)], lasts


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_a_fluid_on_random_graphs(seed: int) -> None:
    """On ten random graphs a seed flows land and steps end when the plain fluid says, within rounding."""
    for case in range(10):
        random = Random(seed * 10 + case)
        graph = random_graph(random)
        transfers = [flow for flow in random_transfers(random, graph, 10) if flow.priority == 0]
        steps = random_steps(random, graph)
        net = FlowNetwork(graph)
        begun = sorted([*enumerate(transfers), *enumerate(steps)], key=lambda pair: pair[1].start_ns)
        numbers: dict[tuple[bool, int], int] = {}
        landed: dict[int, int] = {}
        ended: dict[int, int] = {}
        for i, what in begun:
            while (at_ns := net.next_event_ns()) is not None and at_ns <= what.start_ns:
                landed |= dict.fromkeys(net.advance(at_ns), at_ns)
                ended |= dict.fromkeys(net.steps_ended(), at_ns)
            if isinstance(what, Step):
                numbers[True, i] = net.begin_step(
                    what.start_ns, what.paths, what.transfer_ns, what.alone_ns, hidden_ns=what.hidden_ns
                )
            else:
                numbers[False, i] = net.start(
                    what.start_ns, what.path, what.num_bytes, cap_bytes_per_s=what.cap_bytes_per_s
                )
        more_landed, more_ended = events(net)
        landed, ended = landed | more_landed, ended | more_ended
        sent_ns, ends_ns = fluid(graph, transfers, steps)
        for i, flow in enumerate(transfers):
            wanted = sent_ns[i] + sum(graph.links[link].latency_ns for link in flow.path)
            assert landed[numbers[False, i]] == pytest.approx(wanted, rel=1e-6, abs=30)
        for i in range(len(steps)):
            assert ended[numbers[True, i]] == pytest.approx(ends_ns[i], rel=1e-6, abs=30)
        use = net.link_use()
        for link in graph.links:
            moved = sum(flow.num_bytes for flow in transfers if link.index in flow.path)
            assert use.moved_bytes[use.link == link.index].sum() == pytest.approx(moved, abs=1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**6)), min_size=1, max_size=8), st.integers(1, 10**6))
def test_steps_never_last_shorter_than_alone(flows: list[tuple[int, int]], transfer_ns: int) -> None:
    """Whatever crosses their link; nor longer than with all of it there from beginning to end."""
    net, path = one_link()
    alone_ns = transfer_ns * 2
    step = net.begin_step(0, [path], transfer_ns, alone_ns)
    ended: dict[int, int] = {}
    for start_ns, num_bytes in sorted(flows):
        while (at_ns := net.next_event_ns()) is not None and at_ns <= start_ns:
            net.advance(at_ns)
            ended |= dict.fromkeys(net.steps_ended(), at_ns)
        net.start(start_ns, path, num_bytes)
    ended |= events(net)[1]
    assert alone_ns <= ended[step] <= alone_ns + transfer_ns * len(flows) + 10
