"""Flows share links as fluids do, lose no byte, and land to the nanosecond."""

from __future__ import annotations

from collections import defaultdict
from math import ceil
from random import Random

import pytest
from fluid import Transfer, fluid_landings, random_graph, random_transfers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from servetwin.core.errors import InputError, InvariantError
from servetwin.network.flow_graph import FlowGraph
from servetwin.network.flows import FlowNetwork


def start(net: FlowNetwork, transfer: Transfer) -> int:
    """Start a transfer at its time."""
    return net.start(
        transfer.start_ns,
        transfer.path,
        transfer.num_bytes,
        cap_bytes_per_s=transfer.cap_bytes_per_s,
        priority=transfer.priority,
        messages=transfer.messages,
    )


def landings(net: FlowNetwork, until_ns: int = 2**100) -> dict[int, int]:
    """Return when each flow lands up to some time, event by event."""
    found = {}
    while (at_ns := net.next_event_ns()) is not None and at_ns <= until_ns:
        found |= dict.fromkeys(net.advance(at_ns), at_ns)
    return found


def line(*rates: float, latency_ns: int = 0) -> FlowGraph:
    """Return nodes a, b, c, ... in a line, with links of these bandwidths."""
    graph = FlowGraph()
    names = "abcdefgh"
    for place, rate in enumerate(rates):
        graph.add_link(names[place], names[place + 1], rate, latency_ns)
    return graph


@pytest.mark.parametrize("seed", range(30))
def test_equal_to_a_fluid_on_random_graphs(seed: int) -> None:
    """On ten random graphs a seed every flow lands when the plain fluid says, within rounding."""
    for case in range(10):
        random = Random(seed * 10 + case)
        graph = random_graph(random)
        transfers = random_transfers(random, graph, 20)
        net = FlowNetwork(graph)
        numbers, found = [], {}
        for transfer in transfers:
            found |= landings(net, transfer.start_ns)
            numbers.append(start(net, transfer))
        found |= landings(net)
        # Each end is up to 1 ns late, which may delay others: by more where they are slower than it was.
        tolerance = 10 * len(transfers)
        for number, wanted in zip(numbers, fluid_landings(graph, transfers), strict=True):
            assert abs(found[number] - wanted) <= tolerance


@given(st.integers(0, 10**10), st.integers(10**7, 10**12), st.integers(0, 10**6), st.integers(0, 10**9))
def test_a_lone_flow_is_exact(num_bytes: int, rate: int, latency_ns: int, start_ns: int) -> None:
    """A lone flow takes latency + bytes / bandwidth, rounded up once."""
    graph = line(rate, latency_ns=latency_ns)
    net = FlowNetwork(graph)
    number = net.start(start_ns, graph.path("a", "b"), num_bytes)
    assert landings(net) == {number: start_ns + latency_ns - (-num_bytes * 10**9 // rate)}


def test_messages_and_latency_add_up() -> None:
    """Each further message costs what the links say, whatever the bytes."""
    graph = FlowGraph()
    graph.add_link("gpu", "nic", 50e9, 500, message_ns=100)
    graph.add_link("nic", "switch", 25e9, 1500, message_ns=20.5)
    net = FlowNetwork(graph)
    number = net.start(0, graph.path("gpu", "switch"), 1_000_000, messages=11)
    assert landings(net) == {number: 40_000 + 2_000 + 10 * 121}


def test_two_flows_share_and_the_rest_speeds_up() -> None:
    """Two flows get half each; when the shorter one ends the other has the link for itself."""
    graph = line(1e9)
    net = FlowNetwork(graph)
    long = net.start(0, graph.path("a", "b"), 3_000)
    short = net.start(0, graph.path("a", "b"), 1_000)
    assert net.rate_bytes_per_s(long) == net.rate_bytes_per_s(short) == 0.5e9
    assert landings(net) == {short: 2_000, long: 4_000}


def test_both_directions_are_separate() -> None:
    """Flows that meet head-on do not slow each other down."""
    graph = line(1e9)
    net = FlowNetwork(graph)
    numbers = [net.start(0, graph.path(*pair), 1_000) for pair in ("ab", "ba")]
    assert landings(net) == dict.fromkeys(numbers, 1_000)


def test_what_one_flow_cannot_use_others_get() -> None:
    """Max-min: a flow that another link holds back leaves the rest of a shared link to others."""
    graph = line(1e9, 4e9)
    net = FlowNetwork(graph)
    slow, fast = net.start(0, graph.path("a", "c"), 10**6), net.start(0, graph.path("b", "c"), 10**6)
    capped = net.start(0, graph.path("b", "c"), 10**6, cap_bytes_per_s=0.5e9)
    assert [net.rate_bytes_per_s(number) for number in (slow, fast, capped)] == [1e9, 2.5e9, 0.5e9]


def test_a_smaller_priority_goes_first() -> None:
    """Classes are strict: the later class waits until the first one leaves something."""
    graph = line(1e9)
    net = FlowNetwork(graph)
    waits = net.start(0, graph.path("a", "b"), 1_000, priority=1)
    first = net.start(500, graph.path("a", "b"), 1_000)
    assert net.rate_bytes_per_s(waits) == 0
    assert landings(net) == {first: 1_500, waits: 2_000}


def test_only_flows_that_meet_are_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start re-times the flows of its connected component, and no other."""
    graph = line(*[1e9] * 6)
    net = FlowNetwork(graph)
    net.start(0, graph.path("a", "c"), 10**6)
    net.start(0, graph.path("e", "f"), 10**6)
    net.advance(10)
    timed: list[tuple[int, ...]] = []
    plain = FlowNetwork._set_rate
    monkeypatch.setattr(
        FlowNetwork, "_set_rate", lambda self, bundle, rate: (timed.append(bundle.path), plain(self, bundle, rate))
    )
    net.start(10, graph.path("b", "d"), 10**6)
    net.next_event_ns()
    assert sorted(timed) == sorted([graph.path("a", "c"), graph.path("b", "d")])


def test_cancelled_flows_give_their_bandwidth_back() -> None:
    """A cancelled flow never lands; what it sent is counted, and the other one speeds up at once."""
    graph = line(1e9)
    net = FlowNetwork(graph)
    stays, goes = (net.start(0, graph.path("a", "b"), 1_000) for _ in range(2))
    assert net.cancel(goes, 1_000) == 500
    assert landings(net) == {stays: 1_500}
    assert sum(net.link_use().moved_bytes) == 1_500
    with pytest.raises(InvariantError, match="no flow"):
        net.cancel(goes, 2_000)


def test_use_is_counted_where_it_was() -> None:
    """Use per interval: 600 bytes at 1 byte/ns from 700 ns on are 300 and 300 around the end of the interval."""
    graph = line(1e9)
    net = FlowNetwork(graph, interval_ns=1_000)
    net.start(700, graph.path("a", "b"), 600)
    landings(net)
    use = net.link_use()
    assert list(zip(use.start_ns, use.link, use.moved_bytes, strict=True)) == [(0, 0, 300.0), (1_000, 0, 300.0)]


@pytest.mark.parametrize("seed", range(40))
def test_no_byte_is_lost(seed: int) -> None:
    """What the links carried is what the flows had, and no link carries more than it can in any interval."""
    random = Random(seed)
    graph = random_graph(random)
    net = FlowNetwork(graph, interval_ns=50_000)
    wanted: dict[int, int] = defaultdict(int)
    open_flows: dict[int, Transfer] = {}
    for transfer in random_transfers(random, graph, 40):
        for number in net.advance(transfer.start_ns):
            del open_flows[number]
        if open_flows and random.random() < 0.2:
            stopped = random.choice(list(open_flows))
            sent = net.cancel(stopped, transfer.start_ns)
            for link in (cancelled := open_flows.pop(stopped)).path:
                wanted[link] += sent - cancelled.num_bytes
        open_flows[start(net, transfer)] = transfer
        for link in transfer.path:
            wanted[link] += transfer.num_bytes
    landings(net)
    use = net.link_use()
    for link in graph.links:
        moved = use.moved_bytes[use.link == link.index]
        assert abs(moved.sum() - wanted[link.index]) <= 10  # a cancelled flow may have sent a part of a byte
        assert (moved <= link.bandwidth_bytes_per_s * 50_000 / 1e9 * (1 + 1e-12) + 1e-6).all()


def test_paths_are_the_shortest() -> None:
    """Fewest links first, then the least latency; parallel links: the least latency, then the most bandwidth."""
    graph = FlowGraph()
    graph.add_link("a", "b", 1e9, 500)
    quick = graph.add_link("a", "b", 1e9, 100)
    wide = graph.add_link("a", "b", 2e9, 100, both_ways=False)
    graph.add_link("b", "c", 1e9, 100)
    detour = graph.add_link("a", "d", 1e9, 10)
    graph.add_link("d", "c", 1e9, 10)
    assert graph.path("a", "b") == (wide,)
    assert graph.path("b", "a") == (quick + 1,)
    assert graph.path("a", "c") == (detour, detour + 2)
    assert graph.path("c", "c") == ()


def test_bad_graphs_are_refused() -> None:
    """Unknown and unlinked nodes name both ends; links of impossible sizes are refused."""
    graph = line(1e9)
    graph.add_link("x", "y", 1e9)
    with pytest.raises(InputError, match="no path leads from 'a' to 'y'"):
        graph.path("a", "y")
    with pytest.raises(InputError, match=r"from 'a' to 'z': unknown node 'z'"):
        graph.path("a", "z")
    one_way = FlowGraph()
    one_way.add_link("host", "ssd", 1e9, both_ways=False)
    with pytest.raises(InputError, match="from 'ssd' to 'host'"):
        one_way.path("ssd", "host")
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="bandwidth"):
            graph.add_link("a", "c", bad)
    with pytest.raises(InputError, match="latency_ns"):
        graph.add_link("a", "c", 1e9, -1)
    with pytest.raises(InputError, match="two different nodes"):
        graph.add_link("a", "a", 1e9)


def test_bad_flows_are_refused() -> None:
    """A flow of impossible size, and a time that goes back, are refused."""
    graph = line(1e9)
    net = FlowNetwork(graph)
    path = graph.path("a", "b")
    for keys in ({"num_bytes": -1}, {"num_bytes": 1, "messages": 0}, {"num_bytes": 1, "cap_bytes_per_s": 0.0}):
        with pytest.raises(InputError):
            net.start(0, path, **keys)  # type: ignore[arg-type]
    net.advance(100)
    with pytest.raises(InvariantError, match="cannot go back"):
        net.start(99, path, 1)
    with pytest.raises(InputError, match="interval_ns"):
        FlowNetwork(graph, interval_ns=0)


class Flows(RuleBasedStateMachine):
    """Starts, cancels and lets time pass in any order, on a small graph."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = line(1e9, 3e9, 2e9, latency_ns=7)
        self.net = FlowNetwork(self.graph, interval_ns=1_000)
        self.now_ns = 0
        self.open: dict[int, int] = {}
        self.sent = 0

    @rule(
        ends=st.sampled_from(["ab", "ac", "ad", "bd", "cd", "da"]),
        num_bytes=st.integers(0, 3_000),
        cap=st.sampled_from([None, 1e8, 2.5e9]),
        priority=st.integers(0, 1),
    )
    def start(self, ends: str, num_bytes: int, cap: float | None, priority: int) -> None:
        """Start a flow now."""
        path = self.graph.path(*ends)
        number = self.net.start(self.now_ns, path, num_bytes, cap_bytes_per_s=cap, priority=priority)
        self.open[number] = self.now_ns + 7 * len(path) + ceil(num_bytes / 3)
        self.sent += num_bytes

    @rule(by_ns=st.integers(0, 2_000))
    def pass_time(self, by_ns: int) -> None:
        """Go on, whatever lies between; nothing lands sooner than the fastest link allows."""
        self.now_ns += by_ns
        for number in self.net.advance(self.now_ns):
            assert self.open.pop(number) <= self.now_ns

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a flow that has not been seen to land."""
        number = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[number]
        self.net.cancel(number, self.now_ns)

    @invariant()
    def links_are_not_overloaded(self) -> None:
        """No link gives out more than it has, and the next event lies ahead unless all are done."""
        at_ns = self.net.next_event_ns()
        used = [0] * len(self.graph.links)
        for bundle in self.net._bundles.values():
            for link in bundle.path:
                used[link] += bundle.rate * bundle.count
        assert (at_ns is None) == (not self.open)
        assert at_ns is None or at_ns >= self.now_ns
        for link, rate in zip(self.graph.links, used, strict=True):
            assert rate <= link.bandwidth_bytes_per_s * 10**6

    def teardown(self) -> None:
        """In the end all flows land."""
        found = landings(self.net)
        assert sorted(found) == sorted(self.open)
        assert len(self.net) == 0


TestFlowsAsAStateMachine = Flows.TestCase
TestFlowsAsAStateMachine.settings = settings(max_examples=60, stateful_step_count=30)
