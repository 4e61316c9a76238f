"""A network of flows: transfers over paths of links, which share the links' bandwidth while they last.

Flows that share a link get max-min fair shares of it; when a flow starts or ends, the others that it meets (directly
or through others) change speed, and no more of them than those. Rates and amounts are whole numbers, so that no byte is
lost and equal calls give equal nanoseconds.

A flow has two parts: while it is sent it takes its share of every link of its path; then it is under way for the
path's latency, and takes nothing. Flows on the same path, with the same cap and priority, are alike at any time, so
they are kept as one bundle: a start or an end costs as much as there are bundles, not flows.

Steps of instances whose collectives or loads cross the links, too, may take part (`FlowNetwork.begin_step`): they take
their share, last longer while others take theirs, and are no flows: nothing of them lands, and the record of the links'
use leaves them out.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from itertools import count

from servetwin.core.errors import InputError, InvariantError
from servetwin.core.units import NS_PER_S
from servetwin.network.bundles import PARTS, UNITS_PER_BYTE, Bundle, Flow, Path
from servetwin.network.flow_graph import FlowGraph
from servetwin.network.flow_shares import max_min_shares
from servetwin.network.link_use import LinkMeter, LinkUse
from servetwin.network.step_use import WORK_PER_NS, StepUse

_NEVER_NS = 2**100


class FlowNetwork:
    """Flows on a graph.

    Times are integer nanoseconds that never go back. What happens at one time happens in this order: ends of sending
    (by bundle, then by flow), landings (by flow), then what the caller starts or cancels.

    Parameters
    ----------
    graph
        Its links must not change any more.
    interval_ns
        Over which the links' use is added up.

    Raises
    ------
    InputError
        If the interval is not above 0.
    """

    def __init__(self, graph: FlowGraph, interval_ns: int = NS_PER_S) -> None:
        if interval_ns <= 0:
            raise InputError(f"interval_ns must be above 0, got {interval_ns!r}")
        self.graph = graph
        self.now_ns = 0
        self._capacity = [link.bandwidth_bytes_per_s * PARTS for link in graph.links]
        self._meter = LinkMeter(len(graph.links), interval_ns, UNITS_PER_BYTE)
        self._flows: dict[int, Flow] = {}
        self._numbers = count()
        self._bundles: dict[tuple[Path, int, int], Bundle] = {}
        self._bundle_numbers = count()
        self._on_link: list[dict[Bundle, None]] = [{} for _ in graph.links]
        self._changed: dict[Bundle, None] = {}
        """Bundles that got or lost a flow since rates were last settled."""
        self._ends: list[tuple[int, int, int, Bundle]] = []
        self._landings: list[tuple[int, int]] = []
        self._landed: list[int] = []
        self._step_ends: list[tuple[int, int, int, StepUse]] = []
        self._steps_ended: list[int] = []
        self._reached: dict[int, None] = {}
        """Links over which a flow has started since `links_reached` was asked."""

    def __len__(self) -> int:
        return len(self._flows)

    # What the caller does -------------------------------------------------------------------------------------

    def start(
        self,
        now_ns: int,
        path: Path,
        num_bytes: int,
        *,
        cap_bytes_per_s: float | None = None,
        priority: int = 0,
        messages: int = 1,
    ) -> int:
        """Start a flow; return its number.

        Alone it lands after latency + (messages - 1) x the links' cost per message + bytes / bandwidth, rounded up to
        whole nanoseconds once. The cost of messages is added to the latency: it takes no bandwidth from others.

        Parameters
        ----------
        now_ns
            Not before any time given before.
        path
            Numbers of links, as `FlowGraph.path` returns them; without links only the bytes' landing is reported.
        num_bytes
            At least 0.
        cap_bytes_per_s
            Most that it may take, at least 1; nothing but the links limits it where left out.
        priority
            Strict classes: flows of a greater number get only what those of smaller ones leave.
        messages
            Into how many messages it is cut, at least 1.

        Raises
        ------
        InputError
            If a number is out of bounds.
        InvariantError
            If the time goes back.
        """
        if num_bytes < 0 or messages < 1:
            raise InputError(f"a flow has at least 0 bytes and 1 message, got {num_bytes!r} and {messages!r}")
        if cap_bytes_per_s is not None and not (math.isfinite(cap_bytes_per_s) and cap_bytes_per_s >= 1):
            raise InputError(f"cap_bytes_per_s must be at least 1, got {cap_bytes_per_s!r}")
        self._run_to(now_ns)
        links = [self.graph.links[number] for number in path]
        delay_ns = sum(link.latency_ns + (messages - 1) * link.message_ns for link in links)
        number = next(self._numbers)
        if num_bytes == 0 or not path:
            self._flows[number] = Flow(num_bytes, delay_ns, None)
            heapq.heappush(self._landings, (now_ns + delay_ns, number))
            return number
        bundle = self._bundle(path, 0 if cap_bytes_per_s is None else round(cap_bytes_per_s) * PARTS, priority)
        begun = bundle.served_at(now_ns)
        self._flows[number] = Flow(num_bytes, delay_ns, bundle, begun)
        heapq.heappush(bundle.ends, (begun + num_bytes * UNITS_PER_BYTE, number))
        self._count(bundle, 1)
        self._reached |= dict.fromkeys(path)
        return number

    def next_event_ns(self) -> int | None:
        """Return when something happens next if nobody starts or cancels a flow before; None if never.

        Not all that happens is a landing: sending may end, and others become faster.
        """
        self._settle()
        while self._ends and self._ends[0][2] != self._ends[0][3].version:
            heapq.heappop(self._ends)
        while self._landings and self._landings[0][1] not in self._flows:
            heapq.heappop(self._landings)
        while self._step_ends and self._step_ends[0][2] != self._step_ends[0][3].version:
            heapq.heappop(self._step_ends)
        times = [queue[0][0] for queue in (self._ends, self._landings, self._step_ends) if queue]
        if self._landed or self._steps_ended:
            times.append(self.now_ns)
        return min(times) if times else None

    def advance(self, now_ns: int) -> list[int]:
        """Go to a time; return the numbers of the flows that landed since the last call, in order of their landing.

        Raises
        ------
        InvariantError
            If the time goes back.
        """
        self._run_to(now_ns)
        landed, self._landed = self._landed, []
        return landed

    def begin_step(
        self,
        now_ns: int,
        paths: Sequence[Path],
        transfer_ns: int,
        alone_ns: int,
        *,
        left_ns: int | None = None,
        hidden_ns: int = 0,
    ) -> int:
        """Let a step take part, in the middle of which it may be; return its number.

        It takes the share ``transfer_ns`` / (how long it lasts) of its links, on average. While others leave it a share
        ``s`` of them when it asks for all, it lasts ``alone_ns + max(0, transfer_ns (1 / s - 1) - hidden_ns)`` from
        beginning to end.

        Parameters
        ----------
        paths
            Of its ranks, each at least one link; the slowest counts.
        transfer_ns
            Time that its bytes take alone, latencies and kernels left out; at least 1.
        alone_ns
            How long the whole step lasts alone, at least 1; ``left_ns`` of it are left (None: all).
        hidden_ns
            How much longer its bytes may take without delaying it.

        Raises
        ------
        InputError
            If a number is out of bounds.
        InvariantError
            If the time goes back.
        """
        if transfer_ns < 1 or alone_ns < 1 or not paths or not all(paths):
            raise InputError(f"a step has links and takes at least 1 ns, got {paths}, {transfer_ns}, {alone_ns}")
        self._run_to(now_ns)
        number = next(self._numbers)
        left = (alone_ns if left_ns is None else left_ns) * WORK_PER_NS
        step = StepUse(number, transfer_ns, hidden_ns, alone_ns, left, now_ns)
        for path in paths:
            bundle = Bundle(next(self._bundle_numbers), path, 0, 0, count=1, since_ns=now_ns, step=step)
            step.bundles.append(bundle)
            step.capacity.append(min(self._capacity[link] for link in path))
            self._changed[bundle] = None
            for link in path:
                self._on_link[link][bundle] = None
        return number

    def steps_ended(self) -> list[int]:
        """Return the numbers of the steps that ended since the last call, up to where `advance` went."""
        ended, self._steps_ended = self._steps_ended, []
        return ended

    def links_reached(self) -> list[int]:
        """Return the links over which flows have started since the last call."""
        reached, self._reached = list(self._reached), {}
        return reached

    def is_crossed(self, path: Path) -> bool:
        """Return whether a flow is being sent over any of these links."""
        return any(bundle.count and bundle.step is None for link in path for bundle in self._on_link[link])

    def cancel(self, number: int, now_ns: int) -> int:
        """Stop a flow that has not landed; return how many whole bytes of it were sent.

        Raises
        ------
        InvariantError
            If there is no such flow (any more), or the time goes back.
        """
        self._run_to(now_ns)
        sent = self.sent_bytes(number)
        bundle = self._flows.pop(number).bundle
        if bundle is not None:
            self._count(bundle, -1)
        return sent

    # What the caller may ask ----------------------------------------------------------------------------------

    def rate_bytes_per_s(self, number: int) -> float:
        """Return how fast a flow is sent now: 0 once all is sent.

        Raises
        ------
        InvariantError
            If there is no such flow (any more).
        """
        self._settle()
        bundle = self._flow(number).bundle
        return bundle.rate / PARTS if bundle is not None else 0.0

    def sent_bytes(self, number: int) -> int:
        """Return how many whole bytes of a flow are sent.

        Raises
        ------
        InvariantError
            If there is no such flow (any more).
        """
        flow = self._flow(number)
        if flow.bundle is None:
            return flow.num_bytes
        return (flow.bundle.served_at(self.now_ns) - flow.begun) // UNITS_PER_BYTE

    def link_use(self) -> LinkUse:
        """Return what each link carried up to now, per interval."""
        for link in range(len(self._capacity)):
            self._meter.settle(link, self.now_ns)
        return self._meter.use()

    # Events ---------------------------------------------------------------------------------------------------

    def _run_to(self, now_ns: int) -> None:
        """Let everything happen that is due up to ``now_ns``. Rates are settled before time goes on."""
        if now_ns < self.now_ns:
            raise InvariantError(f"the network is at {self.now_ns} ns and cannot go back to {now_ns} ns")
        while (at_ns := self._due_ns()) <= now_ns or (self._changed and now_ns > self.now_ns):
            if self._changed and at_ns > self.now_ns:
                self._settle()
            elif self._ends and self._ends[0][0] == at_ns:
                self._end(*heapq.heappop(self._ends))
            elif self._landings and self._landings[0][0] == at_ns:
                self._land(*heapq.heappop(self._landings))
            else:
                self._end_step(*heapq.heappop(self._step_ends))
        self.now_ns = now_ns

    def _due_ns(self) -> int:
        """Return the time of the first event in the queues, which may be out of date."""
        due_ns = self._ends[0][0] if self._ends else _NEVER_NS
        if self._landings:
            due_ns = min(due_ns, self._landings[0][0])
        return min(due_ns, self._step_ends[0][0]) if self._step_ends else due_ns

    def _end(self, at_ns: int, _: int, version: int, bundle: Bundle) -> None:
        """Take the flows that are sent out of their bundle."""
        if version != bundle.version:
            return
        self.now_ns = at_ns
        served = bundle.served_at(at_ns)
        ends = bundle.ends
        while ends and (ends[0][0] <= served or ends[0][1] not in self._flows):
            target, number = heapq.heappop(ends)
            flow = self._flows.get(number)
            if flow is None:
                continue
            flow.bundle = None
            self._count(bundle, -1)
            for link in bundle.path if served > target else ():
                self._meter.correct(link, served - target, at_ns)
            heapq.heappush(self._landings, (at_ns + flow.delay_ns, number))

    def _land(self, at_ns: int, number: int) -> None:
        if self._flows.pop(number, None) is not None:
            self.now_ns = at_ns
            self._landed.append(number)

    def _end_step(self, at_ns: int, number: int, version: int, step: StepUse) -> None:
        """Let a step that is over leave its links."""
        if version != step.version:
            return
        self.now_ns = at_ns
        self._steps_ended.append(number)
        for bundle in step.bundles:
            bundle.count = 0
            self._changed[bundle] = None

    # Rates ----------------------------------------------------------------------------------------------------

    def _bundle(self, path: Path, cap: int, priority: int) -> Bundle:
        key = (path, cap, priority)
        bundle = self._bundles.get(key)
        if bundle is None:
            bundle = self._bundles[key] = Bundle(next(self._bundle_numbers), path, cap, priority, since_ns=self.now_ns)
            for link in path:
                self._on_link[link][bundle] = None
        return bundle

    def _count(self, bundle: Bundle, by: int) -> None:
        """Count a flow in or out. It still has, or has not yet, its share of the links until rates are settled."""
        bundle.count += by
        self._changed[bundle] = None
        for link in bundle.path if bundle.rate else ():
            self._meter.change(link, by * bundle.rate, self.now_ns)

    def _settle(self) -> None:
        """Find the new rates of the bundles that changed and of those that they meet."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        met = self._met(changed)
        for bundle in [bundle for bundle in changed if not bundle.count]:
            self._set_rate(bundle, 0)
            self._drop(bundle)
            del met[bundle]
        bundles = list(met)
        steps = list(dict.fromkeys(bundle.step for bundle in bundles if bundle.step is not None))
        for bundle, rate in zip(bundles, self._shares_beside(steps, bundles), strict=True):
            if rate != bundle.rate or bundle in changed:
                self._set_rate(bundle, rate)

    def _shares_beside(self, steps: Sequence[StepUse], bundles: list[Bundle]) -> list[int]:
        """Return the shares of bundles, some of them those of steps; each step goes on at the speed that these allow.

        What a step asks for at times, and then gets of its links, says how long it lasts; what it takes on average
        follows from that, and the others share what is left.
        """
        if steps:
            for step in steps:
                step.ask_for_all()
            gets = dict(zip(bundles, self._shares(bundles), strict=True))
            for step in steps:
                end_ns = step.go_on(gets, self.now_ns)
                heapq.heappush(self._step_ends, (end_ns, step.number, step.version, step))
        return self._shares(bundles)

    def _shares(self, bundles: list[Bundle]) -> list[int]:
        if len(bundles) == 1:
            (bundle,) = bundles
            share = min(self._capacity[link] for link in bundle.path) // bundle.count
            return [min(share, bundle.cap) if bundle.cap else share]
        return max_min_shares(bundles, self._capacity)

    def _flow(self, number: int) -> Flow:
        flow = self._flows.get(number)
        if flow is None:
            raise InvariantError(f"there is no flow {number} (any more): it landed, was cancelled or never began")
        return flow

    def _met(self, changed: Iterable[Bundle]) -> dict[Bundle, None]:
        """Return the connected component of bundles over the links that they share."""
        met = dict.fromkeys(changed)
        waiting = list(met)
        seen: set[int] = set()
        for bundle in waiting:
            others = list(bundle.step.bundles) if bundle.step is not None and bundle.count else []
            for link in bundle.path:
                if link not in seen:
                    seen.add(link)
                    others += self._on_link[link]
            for other in others:
                if other not in met:
                    met[other] = None
                    waiting.append(other)
        return met

    def _set_rate(self, bundle: Bundle, rate: int) -> None:
        now_ns = self.now_ns
        bundle.served = bundle.served_at(now_ns)
        bundle.since_ns = now_ns
        if rate != bundle.rate:
            for link in bundle.path if bundle.step is None else ():
                self._meter.change(link, (rate - bundle.rate) * bundle.count, now_ns)
            bundle.rate = rate
        bundle.version += 1
        while bundle.ends and bundle.ends[0][1] not in self._flows:
            heapq.heappop(bundle.ends)
        if rate and bundle.ends:
            end_ns = now_ns - (bundle.served - bundle.ends[0][0]) // rate
            heapq.heappush(self._ends, (end_ns, bundle.number, bundle.version, bundle))

    def _drop(self, bundle: Bundle) -> None:
        if bundle.step is None:
            del self._bundles[bundle.path, bundle.cap, bundle.priority]
        for link in bundle.path:
            del self._on_link[link][bundle]
