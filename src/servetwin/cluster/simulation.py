"""The event loop: arrivals, routing, the steps of all instances, and what a request's end releases.

What steps by itself is a *unit*: an instance, or a group of them in lockstep or with a pipeline. Equal times are
served in this order: arrivals (by row), hand-overs between instances (by row), landings of KV, landings of embeddings,
recalls from tiers (by row), encoders' batches, step ends and wake-ups (by unit), control events.
"""

from __future__ import annotations

import gc
import heapq
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import (
    Disaggregation,
    EncoderPool,
    FrontEnd,
    InstanceSpec,
    Router,
    SimulationOutcome,
)
from servetwin.cluster.embeddings import EmbeddingTransfers
from servetwin.cluster.encoders import Encoders
from servetwin.cluster.handovers import (
    ARRIVAL,
    CONTROL,
    EMBEDDING,
    ENCODER,
    HANDOVER,
    LANDING,
    RECALL,
    STEP,
    Handovers,
    link_records,
)
from servetwin.cluster.invariants import check_instance
from servetwin.cluster.kv_transfers import KvTransfers
from servetwin.cluster.plugins import check_plugins
from servetwin.cluster.release import Releases
from servetwin.cluster.routing import Routing
from servetwin.cluster.steps_on_links import StepsOnLinks
from servetwin.cluster.tiers import ClusterTiers
from servetwin.cluster.units import Unit, make_units, members
from servetwin.core.errors import StuckError
from servetwin.core.interrupts import interrupts_handled
from servetwin.core.units import NS_PER_S
from servetwin.engine.admission import rejection_reason
from servetwin.engine.base import NOT_YET, REJECTED, RequestLog
from servetwin.engine.instance import FAR_NS, Instance
from servetwin.engine.recalls import land_recall
from servetwin.engine.request import Request
from servetwin.workload.base import DistinctContents, Workload
from servetwin.workload.coarse import answers_are_distinct, keys_of

STOP_NS = -1
"""Before all times of a run: when the event is due that Ctrl-C asks for."""

_ROWS_AT_ONCE = 8192


def simulate(
    workload: Workload,
    instances: Sequence[InstanceSpec],
    router: Router,
    *,
    staleness_ns: int = 0,
    front_end: FrontEnd | None = None,
    disaggregation: Disaggregation | None = None,
    encoders: EncoderPool | None = None,
    check_invariants: bool = False,
    skipping: bool = True,
    cut_ns: Sequence[int] = (),
    progress: Callable[[int], None] | None = None,
) -> SimulationOutcome:
    """Run a workload on a cluster to its end.

    Parameters
    ----------
    staleness_ns
        How old the router's view may be: it looks again when its last look is at least this old.
    front_end
        Constant delays between clients and instances.
    disaggregation
        How requests get from instances that compute prompts to those that compute outputs; needed if there are such.
    encoders
        Through which requests with encoder tokens go before they are routed; None: such tokens are there at once.
    check_invariants
        Check every instance's state after every event (slow).
    skipping
        Let unchanged batches run for many steps on one event; the result is the same without, only later.
    cut_ns
        Times at which all runs are cut (for tests: the result is the same).
    progress
        Called now and then with the number of requests that arrived so far.

    Returns
    -------
    SimulationOutcome
        Incomplete (``complete`` is False) when the user interrupted it.

    Raises
    ------
    InputError
        If a policy or a step model lacks a part of its contract.
    InvariantError
        If one breaks it in the run, or, with ``check_invariants``, if an instance contradicts itself.
    StuckError
        If requests are left that nothing will ever serve; it says who waits for what.
    """
    check_plugins(instances, router, disaggregation)
    loop = _Loop(workload, instances, router, staleness_ns, front_end, disaggregation, check_invariants, skipping)
    loop.encode_by(encoders)
    return loop.run(cut_ns, progress)


class _Loop:
    def __init__(
        self,
        workload: Workload,
        specs: Sequence[InstanceSpec],
        router: Router,
        staleness_ns: int,
        front_end: FrontEnd | None,
        disaggregation: Disaggregation | None,
        check_invariants: bool,
        skipping: bool,
    ) -> None:
        self.workload = workload
        self.specs = specs
        self.router = router
        self.front_end = front_end
        self.check_invariants = check_invariants
        self.requests = RequestLog.of_size(len(workload))
        self.contents = workload.contents or DistinctContents(workload.prompt_tokens + workload.output_tokens)
        delay_ns = front_end.request_ns if front_end else 0
        known = workload.arrival_ns[workload.arrival_ns >= 0]
        first_ns = min(int(known.min()) + delay_ns if len(known) else NS_PER_S, NS_PER_S)
        self.disaggregation = disaggregation
        self.routing = routing = Routing(workload, specs, router, staleness_ns, disaggregation)
        self._watches_steps, self._watches_ends = routing.watches_steps, routing.watches_ends
        reads_kv = bool(routing.reads & {"kv_used_blocks", "reusable_tokens"}) and len(specs) > 1
        self.tiers = ClusterTiers(specs, self.contents)
        self._recalls_apart = any(own is not None and own.loads_apart for own in self.tiers.of)
        self.units, self.instances = make_units(
            specs,
            self.requests,
            distinct=workload.contents is None,
            distinct_answers=answers_are_distinct(workload),
            first_poll_ns=first_ns,
            skipping=skipping and not reads_kv and disaggregation is None,
            disaggregation=disaggregation,
            tiers=self.tiers.of,
        )
        self.routing.reusable_tokens = self._reusable_tokens
        self._unit_of = [number for number, unit in enumerate(self.units) for _ in members(unit)]
        self.events: list[tuple[int, int, int]] = []
        self.releases = Releases(workload, front_end or FrontEnd(), self._release)
        self._now_ns = 0
        self._stepped_ns, self._stepped = -1, -1
        self._routed = False
        self._routes = len(specs) > 1 or workload.model is not None or disaggregation is not None
        self._handovers = self._make_handovers(disaggregation) if disaggregation else None
        self._steps_on_links = self._share_links(disaggregation, self._handovers)
        self._encoders: Encoders | None = None
        self._embeddings: EmbeddingTransfers | None = None
        looks_on = self._handovers or self._recalls_apart or self._watches_steps or check_invariants
        self._only_steps = not (looks_on or self.releases.any)
        """Whether nobody but the router, and only when requests end, has to do with steps."""

    def encode_by(self, pool: EncoderPool | None) -> None:
        """Put encoders in front of the router, if anything is for them."""
        tokens = self.workload.encoder_tokens
        if pool is None or tokens is None:
            return
        self._embeddings = EmbeddingTransfers(pool, [spec.name for spec in self.specs], self.disaggregation)
        self._encoders = Encoders(
            pool,
            tokens,
            self.events,
            self._embeddings,
            place=self._place_encoded,
            join=self._join_encoded,
            expect_kv=self._handovers.expect if self._handovers else _nothing,
        )
        if self._handovers and self._embeddings.shared:
            self._handovers.land_other = self._encoders.land_one

    def _make_handovers(self, disaggregation: Disaggregation) -> Handovers:
        return Handovers(
            disaggregation,
            self.workload,
            self.contents,
            self.requests,
            self.instances,
            self.events,
            choose=self._choose_decode,
            reject=self._reject,
            came=self._came_to_decode,
            notify=self._notify,
        )

    def _share_links(self, disaggregation: Disaggregation | None, handovers: Handovers | None) -> StepsOnLinks | None:
        """Let steps take part in the network of KV, if their collectives cross its links."""
        transfers = disaggregation.transfers if disaggregation else None
        if handovers is None or not isinstance(transfers, KvTransfers) or not transfers.shares_steps:
            return None
        handovers.steps = StepsOnLinks(transfers, self.units, self.events, STEP, handovers.expect)
        return handovers.steps

    # The loop -------------------------------------------------------------------------------------------------

    def run(self, cut_ns: Sequence[int], progress: Callable[[int], None] | None) -> SimulationOutcome:
        self.releases.start()
        complete = True
        collecting = gc.isenabled()
        gc.disable()  # nothing here makes reference cycles, and looking for them takes time
        try:
            with interrupts_handled(self._stop_soon) as interrupts:
                self._serve_all(cut_ns, _Arrived(progress))
        except KeyboardInterrupt:
            if interrupts.count > 1:
                raise
            complete = False
        finally:
            if collecting:
                gc.enable()
        for instance in self.instances:
            instance.close()
        if complete:
            self._assert_all_served()
        return SimulationOutcome(
            workload=self.workload,
            instances=self.specs,
            requests=self.requests,
            logs=[instance.log for instance in self.instances],
            front_end=self.front_end,
            encoding=self._encoders.log if self._encoders else None,
            end_ns=self._now_ns,
            complete=complete,
            notices=self._notices(),
            handoff_ns=self.disaggregation.handoff_ns if self.disaggregation else 0,
            links=[
                *link_records(self.disaggregation),
                *(self._embeddings.link_records() if self._embeddings else ()),
            ],
            tiers=self.tiers.records(self._now_ns),
        )

    def _stop_soon(self) -> None:
        """Put the end of the run in front of all events, so that Ctrl-C never cuts one in two."""
        heapq.heappush(self.events, (STOP_NS, CONTROL, 0))

    def _serve_all(self, cut_ns: Sequence[int], arrived: _Arrived) -> None:
        """Serve all units together, or one after the other if nothing that one does can reach another."""
        known = np.arange(np.searchsorted(self.workload.arrival_ns < 0, True))
        polls = any(spec.settings.idle_poll_ns for spec in self.specs)
        between = self._handovers or self._encoders or self.tiers.shared
        if len(self.units) == 1 or between or self.router.reads or self.releases.any or polls:
            self._serve(self._arrivals(known, arrived), cut_ns)
            return
        for rows in self._routed_ahead(known):
            self._serve(self._arrivals(rows, arrived), cut_ns, alone=True)

    def _routed_ahead(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Route all arrivals by a router that reads nothing; yield the rows of each unit, and those of none."""
        for arrival_ns, row, prompt_tokens, _ in self._arrivals(rows, _Arrived(None)):
            if row < len(self.workload):
                chosen = self.routing.choose(row, arrival_ns, prompt_tokens)
                self.requests.instance[row] = NOT_YET if chosen is None else chosen
        chosen_of_row = np.frombuffer(self.requests.instance, dtype=np.int32)[rows]
        unit_of_row = np.array([*self._unit_of, NOT_YET])[chosen_of_row]  # that of none comes last, and first
        by_unit = np.argsort(unit_of_row, kind="stable")
        bounds = np.searchsorted(unit_of_row[by_unit], np.arange(len(self.units)))
        yield from np.split(rows[by_unit], bounds)

    def _serve(
        self, arrivals: Iterator[tuple[int, int, int, int]], cut_ns: Sequence[int], *, alone: bool = False
    ) -> None:
        """Serve arrivals until nothing is left to do.

        Parameters
        ----------
        alone
            All of them go to one unit, which is known: the log says to which of its instances.
        """
        events, last_ns = self.events, self._now_ns
        for time_ns in cut_ns:
            heapq.heappush(events, (time_ns, CONTROL, 0))
        heapq.heappush(events, (FAR_NS, CONTROL, -1))
        self._routed = alone
        knows_next = alone or len(self.units) == 1
        arrival_ns, row, prompt_tokens, output_tokens = next(arrivals)
        pop = heapq.heappop
        while True:
            head = events[0]
            if arrival_ns < head[0] or (arrival_ns == head[0] and (ARRIVAL, row) < head[1:]):
                self._now_ns = arrival_ns
                self._arrive(row, arrival_ns, prompt_tokens, output_tokens)
                arrival_ns, row, prompt_tokens, output_tokens = next(arrivals)
                continue
            now_ns, kind, number = pop(events)
            if kind == STEP:
                if self.units[number].next_event_ns == now_ns:
                    self._now_ns = now_ns
                    self._step(number, now_ns, arrival_ns if knows_next else FAR_NS)
            elif kind == ARRIVAL:
                self._now_ns = now_ns
                w = self.workload
                self._arrive(number, now_ns, int(w.prompt_tokens[number]), int(w.output_tokens[number]))
            elif kind == ENCODER and self._encoders:
                self._now_ns = now_ns
                self._encoders.act(number, now_ns)
            elif kind == EMBEDDING and self._encoders:
                if self._encoders.due_ns == now_ns:
                    self._now_ns = now_ns
                    self._encoders.land(now_ns)
            elif kind == HANDOVER and self._handovers:
                self._now_ns = now_ns
                self._handovers.come(number, now_ns)
            elif kind == LANDING and self._handovers:
                if self._handovers.due_ns == now_ns:
                    self._now_ns = now_ns
                    self._handovers.land(now_ns)
            elif kind == RECALL:
                self._now_ns = now_ns
                self._land_recall(number, now_ns)
            elif now_ns == FAR_NS:
                self._now_ns = max(last_ns, self._now_ns)
                return
            elif now_ns == STOP_NS:
                raise KeyboardInterrupt
            else:
                self._cut_all(now_ns)

    def _arrivals(self, rows: NDArray[np.int64], arrived: _Arrived) -> Iterator[tuple[int, int, int, int]]:
        """Yield (server arrival, row, prompt, output) of these rows, then one that never comes."""
        w = self.workload
        delay_ns = self.front_end.request_ns if self.front_end else 0
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[first : first + _ROWS_AT_ONCE]
            columns = (w.arrival_ns[part] + delay_ns, part, w.prompt_tokens[part], w.output_tokens[part])
            yield from zip(*(column.tolist() for column in columns), strict=True)
            arrived.more(len(part))
        yield FAR_NS + 1, len(w), 0, 0

    def _step(self, number: int, now_ns: int, horizon_ns: int) -> None:
        unit = self.units[number]
        self._stepped_ns, self._stepped = now_ns, number
        finished = unit.complete(now_ns)
        if not self._only_steps:
            self._after_completion(unit, finished, now_ns)
        end_ns = unit.plan(now_ns, horizon_ns)
        if end_ns is not None:
            heapq.heappush(self.events, (end_ns, STEP, number))
        if not self._only_steps:
            self._after_planning(number, now_ns)
        if finished and self._watches_ends:
            for request in finished:
                self.routing.left(self.requests.instance[request.row])

    def _after_completion(self, unit: Unit, finished: Sequence[Request], now_ns: int) -> None:
        """Let those come who wait for a request's end, and those go on whose prompt is computed."""
        if self.releases.any:
            for request in finished:
                self.releases.after_completion(request.row, now_ns)
        if self._handovers:
            self._take_handed_over(unit, now_ns)

    def _after_planning(self, number: int, now_ns: int) -> None:
        """Let links, KV, tiers, the router and the invariants know of what a unit does next."""
        unit = self.units[number]
        if self._steps_on_links:
            self._steps_on_links.look(number, now_ns)
        if self._handovers:
            for instance in members(unit):
                if instance.reserved:
                    self._handovers.begin(instance, now_ns)
        if self._recalls_apart:
            self._expect_recalls(unit)
        if self._watches_steps:
            for instance in members(unit):
                self.routing.look_at(instance)
        if self.check_invariants:
            for instance in members(unit):
                check_instance(instance, self.specs[instance.number].name)

    def _take_handed_over(self, unit: Unit, now_ns: int) -> None:
        for instance in members(unit):
            if instance.handed_over and self._handovers:
                if self.routing.watches_ends:
                    for _ in instance.handed_over:
                        self.routing.left(instance.number)
                self._handovers.take(instance, now_ns)

    def _expect_recalls(self, unit: Unit) -> None:
        """Have an event for each recall that has begun and that no step waits for."""
        for instance in members(unit):
            if instance.tiers is not None and instance.tiers.started:
                for end_ns, row in instance.tiers.started:
                    heapq.heappush(self.events, (end_ns, RECALL, row))
                instance.tiers.started.clear()

    def _land_recall(self, row: int, now_ns: int) -> None:
        number = self.requests.instance[row]
        land_recall(self.instances[number], row, now_ns)
        self._notify(number, now_ns)

    def _cut_all(self, now_ns: int) -> None:
        for number, unit in enumerate(self.units):
            end_ns = unit.cut(now_ns) if unit.busy else None
            if end_ns is not None:
                heapq.heappush(self.events, (end_ns, STEP, number))

    # Arrivals -------------------------------------------------------------------------------------------------

    def _release(self, row: int, server_ns: int) -> None:
        heapq.heappush(self.events, (server_ns, ARRIVAL, row))

    def _arrive(self, row: int, now_ns: int, prompt_tokens: int, output_tokens: int) -> None:
        self.requests.arrival_ns[row] = now_ns
        if self._encoders and self._encoders.take(row, now_ns):
            return
        number = self._place(row, now_ns, prompt_tokens, output_tokens)
        if number is not None:
            self._join(row, number, now_ns, prompt_tokens, output_tokens)
            if self._watches_ends:
                self.routing.came(number)

    def _place(self, row: int, now_ns: int, prompt_tokens: int, output_tokens: int) -> int | None:
        """Return the instance to which a row goes first; None where it is rejected."""
        number = 0
        if self._routes:
            chosen = self._routed_to(row) if self._routed else self.routing.choose(row, now_ns, prompt_tokens)
            if chosen is None:
                self._reject(row, self.routing.nobody(row), now_ns)
                return None
            number = chosen
        self.requests.instance[row] = number
        instance = self.instances[number]
        here = 1 if instance.hands_over else output_tokens
        if prompt_tokens + here > instance.longest_request:
            self._reject(row, rejection_reason(instance.settings, prompt_tokens, here), now_ns)
            return None
        return number

    def _join(self, row: int, number: int, now_ns: int, prompt_tokens: int, output_tokens: int) -> None:
        """Put a row into an instance's queue."""
        w, instance = self.workload, self.instances[number]
        priority = int(w.priority[row]) if w.priority is not None else 0
        key = (now_ns, row) if instance.fifo else instance.order_key(row, now_ns, priority, prompt_tokens)
        request = Request(row, key, prompt_tokens, output_tokens, now_ns)
        if instance.settings.enable_prefix_caching:
            request.keys = keys_of(self.contents, row, instance.settings.block_size)
        instance.waiting.push(request)
        if self._watches_steps or self.units[self._unit_of[number]].may_notice:
            self._notify(number, now_ns)

    def _place_encoded(self, row: int, now_ns: int) -> int | None:
        """Return the instance to which the embeddings of a row go; None where it is rejected."""
        w = self.workload
        number = self._place(row, now_ns, int(w.prompt_tokens[row]), int(w.output_tokens[row]))
        if number is not None:
            self.routing.set_out(self.instances[number])
        return number

    def _join_encoded(self, row: int, number: int, now_ns: int) -> None:
        """Let a row join whose embeddings have come."""
        w = self.workload
        self.routing.arrived(number)
        self._join(row, number, now_ns, int(w.prompt_tokens[row]), int(w.output_tokens[row]))

    def _notify(self, number: int, now_ns: int) -> None:
        """Tell an instance that somebody came to it, or that it has more room."""
        instance = self.instances[number]
        unit_number = self._unit_of[number]
        unit = self.units[unit_number]
        if unit.may_notice:
            passed = self._stepped_ns == now_ns and unit_number < self._stepped
            polls_from_ns = self._polls_from_ns(now_ns) if instance.settings.idle_poll_ns else 0
            event_ns = unit.notice(now_ns, polls_from_ns, boundary_passed=passed)
            if event_ns is not None:
                heapq.heappush(self.events, (event_ns, STEP, unit_number))
        if self._watches_steps:
            self.routing.look_at(instance)

    def _polls_from_ns(self, now_ns: int) -> int:
        """Return from when idle instances are polled: since all fell idle, or soon while one of them computes."""
        looks = [unit.next_look_ns(now_ns) for unit in self.units if unit.computing]
        if looks:
            return min(looks)
        return max(unit.idle_since_ns for unit in self.units)

    def _reject(self, row: int, reason: str, now_ns: int) -> None:
        rejected = [row, *self.releases.after_rejection(row, now_ns)]
        for other in rejected:
            self.requests.state[other] = REJECTED
            self.requests.reasons[other] = reason if other == row else "an earlier turn of its session was rejected"
            if other != row:
                self.requests.arrival_ns[other] = now_ns

    def _routed_to(self, row: int) -> int | None:
        number = self.requests.instance[row]
        return None if number == NOT_YET else number

    def _choose_decode(self, row: int, now_ns: int) -> int | None:
        """Return the instance that computes the output of a row whose prompt is computed."""
        return self.routing.choose(row, now_ns, int(self.workload.prompt_tokens[row]), decodes=True)

    def _reusable_tokens(self, row: int, now_ns: int, number: int) -> int:
        """Return how many tokens of a row's prompt an instance has, on its device and in its tiers."""
        instance = self.instances[number]
        if not instance.settings.enable_prefix_caching:
            return 0
        request = Request(row, (), int(self.workload.prompt_tokens[row]), 1)
        request.keys = keys_of(self.contents, row, instance.settings.block_size)
        on_device = len(instance.cache.lookup(request)) * instance.settings.block_size
        tiers = instance.tiers
        return on_device + (tiers.found(request, on_device, now_ns) if tiers is not None else 0)

    def _came_to_decode(self, number: int, now_ns: int) -> None:
        if self.routing.watches_ends:
            self.routing.came(number)
        self._notify(number, now_ns)

    # The end --------------------------------------------------------------------------------------------------

    def _assert_all_served(self) -> None:
        left = [row for row, state in enumerate(self.requests.state) if state == 0]
        if not left:
            return
        lines = [f"{len(left)} of {len(self.requests.state)} requests can never be served:"]
        for spec, instance in zip(self.specs, self.instances, strict=True):
            if instance.waiting or instance.running or instance.loading or instance.held:
                lines.append(_explain(spec.name, instance))
        unreleased = sum(self.requests.arrival_ns[row] < 0 for row in left)
        if unreleased:
            lines.append(f"  {unreleased} requests were never released: they wait for an earlier one to end")
        raise StuckError("\n".join(lines))

    def _notices(self) -> list[str]:
        notices = list(self.workload.notices)
        for spec in self.specs:
            notices += [notice for notice in spec.timing.notices if notice not in notices]
        return notices


def _nothing() -> None:
    """Do nothing."""


class _Arrived:
    """Counts arrivals, and tells somebody now and then."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        self._count = 0

    def more(self, count: int) -> None:
        """Add some arrivals."""
        self._count += count
        if self._progress is not None:
            self._progress(self._count)


def _explain(name: str, instance: Instance) -> str:
    settings, cache = instance.settings, instance.cache
    line = (
        f"  {name}: {len(instance.waiting)} waiting, {len(instance.running)} of {settings.max_num_seqs} running, "
        f"{cache.free_blocks} of {cache.num_blocks} KV blocks free"
    )
    if instance.held:
        line += f", {len(instance.held)} computed prompts held until an instance that decodes takes them"
    if instance.loading:
        line += f", {len(instance.loading)} whose KV is on its way"
    if not instance.waiting:
        return line
    head = instance.waiting[0]
    hits = cache.lookup(head)
    return (
        f"{line}; next in line is row {head.row} with {head.known_tokens} tokens, which needs "
        f"{cache.missing(head, hits, head.known_tokens)} blocks; the scheduler "
        f"({type(instance.scheduler).__name__}) admitted nothing"
    )
