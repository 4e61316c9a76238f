"""The stepwise engine: slow, obvious, one request and one block at a time. The fast engine must equal it.

It shares with the fast engine only the policies (scheduler, ordering, router), the step models, the execution plans and
the rule of rejection; the event loop, the KV cache, the batches in flight and the records are written a second time, in
the plainest way.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from servetwin.cluster.base import Disaggregation, EncoderPool, FrontEnd, InstanceSpec, Router, Transfers
from servetwin.cluster.kv_transfers import KvTransfers
from servetwin.core.errors import StuckError
from servetwin.core.units import NS_PER_S
from servetwin.engine.admission import rejection_reason
from servetwin.engine.instance import FAR_NS
from servetwin.testing.stepwise_encoders import StepwiseEncoders
from servetwin.testing.stepwise_instance import StepwiseInstance
from servetwin.testing.stepwise_kv_cache import StepwiseRequest
from servetwin.testing.stepwise_routing import StepwiseRouting
from servetwin.testing.stepwise_tiers import make_tiers
from servetwin.testing.stepwise_unit import StepwiseUnit
from servetwin.workload.base import NO_PARENT, DistinctContents, Workload

ARRIVAL, HANDOVER, LANDING, EMBEDDING, RECALL, ENCODER, UNIT = range(7)


@dataclass(slots=True)
class StepwiseOutcome:
    """What the stepwise engine leaves behind."""

    requests: list[StepwiseRequest]
    instances: list[StepwiseInstance]
    end_ns: int


def simulate_stepwise(
    workload: Workload,
    instances: Sequence[InstanceSpec],
    router: Router,
    *,
    staleness_ns: int = 0,
    front_end: FrontEnd | None = None,
    disaggregation: Disaggregation | None = None,
    encoders: EncoderPool | None = None,
) -> StepwiseOutcome:
    """Run a workload to its end, one step at a time; same meaning as ``servetwin.cluster.simulation.simulate``."""
    loop = _StepwiseLoop(workload, instances, router, staleness_ns, front_end or FrontEnd(), disaggregation)
    if encoders is not None and workload.encoder_tokens is not None:
        loop.encoders = StepwiseEncoders(encoders, loop.instances, disaggregation)
    return loop.run()


class _StepwiseLoop:
    def __init__(
        self,
        workload: Workload,
        specs: Sequence[InstanceSpec],
        router: Router,
        staleness_ns: int,
        front_end: FrontEnd,
        disaggregation: Disaggregation | None,
    ) -> None:
        self.workload = workload
        self.router = router
        self.front_end = front_end
        self.disaggregation = disaggregation
        known = [int(t) for t in workload.arrival_ns if t >= 0]
        first_poll = min([t + front_end.request_ns for t in known] + [NS_PER_S])
        self.instances = [StepwiseInstance(spec, number, disaggregation) for number, spec in enumerate(specs)]
        self.contents = workload.contents or DistinctContents(workload.prompt_tokens + workload.output_tokens)
        tiers = make_tiers([spec.tiers for spec in specs], self.contents)
        for instance, own in zip(self.instances, tiers, strict=True):
            instance.tiers = own
        self.units = _units(self.instances, first_poll)
        self.events: list[tuple[int, int, int]] = []
        self.requests = [self._request(row) for row in range(len(workload))]
        self.routing = StepwiseRouting(workload, self.instances, staleness_ns)
        self.encoders: StepwiseEncoders | None = None
        self.on_the_way: dict[int, StepwiseRequest] = {}
        """By the number of the transfer that carries the KV."""
        self.on_links: dict[int, int] = {}
        """Units whose wave shares links with KV, by the number that the network gave it."""
        self.loop_rows = []
        for row in range(len(workload)):
            has_parent = workload.parent is not None and workload.parent[row] != NO_PARENT
            if workload.arrival_ns[row] >= 0:
                self._release(row, int(workload.arrival_ns[row]))
            elif not has_parent:
                self.loop_rows.append(row)
        for _ in range(workload.concurrency or 0):
            self._release_next_item(0)

    def _request(self, row: int) -> StepwiseRequest:
        w = self.workload
        return StepwiseRequest(
            row=row,
            prompt_tokens=int(w.prompt_tokens[row]),
            output_tokens=int(w.output_tokens[row]),
            priority=int(w.priority[row]) if w.priority is not None else 0,
            session_id=w.session_id[row] if w.session_id is not None else None,
            model=w.model[row] if w.model is not None else None,
            encoder_tokens=int(w.encoder_tokens[row]) if w.encoder_tokens is not None else 0,
        )

    def _release(self, row: int, client_ns: int) -> None:
        heapq.heappush(self.events, (client_ns + self.front_end.request_ns, ARRIVAL, row))

    def _delay(self, row: int) -> int:
        return int(self.workload.delay_ns[row]) if self.workload.delay_ns is not None else 0

    def _release_next_item(self, now_ns: int) -> None:
        if self.loop_rows:
            row = self.loop_rows.pop(0)
            self._release(row, now_ns + self._delay(row))

    def run(self) -> StepwiseOutcome:
        now_ns = 0
        while event := self._next_event():
            now_ns, kind, number = event
            if kind == ARRIVAL:
                self._arrive(self.requests[number], now_ns)
            elif kind == HANDOVER:
                self._come_to_decode(self.requests[number], now_ns)
            elif kind == LANDING:
                self._land(now_ns)
            elif kind == EMBEDDING:
                self._land_embeddings(now_ns)
            elif kind == ENCODER:
                self._look_at_encoders(now_ns)
            elif kind == RECALL:
                instance = self.instances[self.requests[number].instance]
                instance.land_recall(self.requests[number], now_ns)
                self._notify(instance, now_ns)
            else:
                self._look_at(number, now_ns)
        left = [request.row for request in self.requests if request.state == "unfinished"]
        if left:
            raise StuckError(f"{len(left)} of {len(self.requests)} requests never finished, first row {left[0]}")
        return StepwiseOutcome(self.requests, self.instances, now_ns)

    def _next_event(self) -> tuple[int, int, int] | None:
        """Return the earliest event; the transfers say themselves when theirs is, and may think otherwise later."""
        kv = self.disaggregation.transfers if self.disaggregation else None
        embeddings = self.encoders.transfers if self.encoders and not self.encoders.transfers.shared else None
        times = [(t.next_event_ns(), kind) for t, kind in ((kv, LANDING), (embeddings, EMBEDDING)) if t is not None]
        landings = [(landing_ns, kind, 0) for landing_ns, kind in times if landing_ns is not None]
        if landings and (not self.events or min(landings) < self.events[0]):
            return min(landings)
        return heapq.heappop(self.events) if self.events else None

    # Requests come --------------------------------------------------------------------------------------------

    def _arrive(self, request: StepwiseRequest, now_ns: int) -> None:
        request.arrival_ns = now_ns
        if self.encoders and request.encoder_tokens:
            self.encoders.queue.append(request)
            heapq.heappush(self.events, (now_ns, ENCODER, 0))
        elif self._place(request, now_ns):
            self._join(request, now_ns)

    def _place(self, request: StepwiseRequest, now_ns: int) -> bool:
        """Choose the instance to which a request goes first; return whether it can serve it."""
        router, how = self.router, self.disaggregation
        candidates = self.routing.candidates(request, ("prefill", "both"))
        if how is not None and request.prompt_tokens <= how.local_prompt_tokens:
            router = how.decode_router
            candidates = self.routing.candidates(request, ("decode", "both"))
        if not candidates:
            does = "serves" if how is None else "prefills"
            self._reject(request, f"no pool {does} the model {request.model!r}", now_ns)
            return False
        request.instance = self.routing.choose(router, request, candidates, now_ns)
        role = self.instances[request.instance].spec.role
        return self._fits(request, 1 if role == "prefill" else request.output_tokens, now_ns)

    def _come_to_decode(self, request: StepwiseRequest, now_ns: int) -> None:
        """Send a request whose prompt is computed to an instance that computes its output."""
        assert self.disaggregation is not None
        candidates = self.routing.candidates(request, ("decode", "both"))
        if candidates:
            request.instance = self.routing.choose(self.disaggregation.decode_router, request, candidates, now_ns)
            if self._fits(request, request.output_tokens, now_ns):
                self._join(request, now_ns)
        else:
            self._reject(request, "no pool decodes its model", now_ns)
        if request.state == "rejected":
            self._let_go(request, now_ns)

    def _fits(self, request: StepwiseRequest, output_tokens: int, now_ns: int) -> bool:
        """Return whether its instance can make so many tokens of a request's output; else it is rejected."""
        settings = self.instances[request.instance].settings
        blocks = -(-(request.prompt_tokens + output_tokens - 1) // settings.block_size)
        if request.prompt_tokens + output_tokens > settings.max_model_len or blocks > settings.num_blocks:
            self._reject(request, rejection_reason(settings, request.prompt_tokens, output_tokens), now_ns)
            return False
        return True

    def _join(self, request: StepwiseRequest, now_ns: int) -> None:
        """Put a request into its instance's queue."""
        instance = self.instances[request.instance]
        settings = instance.settings
        request.keys = ()
        if settings.enable_prefix_caching:
            request.keys = self.contents.block_keys(request.row, settings.block_size)
        request.joined_ns = now_ns
        instance.enqueue(request)
        self._notify(instance, now_ns)

    def _notify(self, instance: StepwiseInstance, now_ns: int) -> None:
        """Let an instance look at what has changed, at once or as soon as it can."""
        instance.note(now_ns)
        number = next(i for i, unit in enumerate(self.units) if instance in unit.ranks)
        event_ns = self.units[number].arrival_event_ns(instance, now_ns, self.units)
        if event_ns is not None:
            self._look_later(number, event_ns)

    # Encoders -------------------------------------------------------------------------------------------------

    def _look_at_encoders(self, now_ns: int) -> None:
        """Send on a batch that is encoded; where there is none (more), let free encoders begin batches."""
        assert self.encoders is not None
        encoded = self.encoders.end_batch(now_ns)
        for request in encoded:
            if self._place(request, now_ns):
                self.encoders.send(request, now_ns)
                self._share_links(range(len(self.units)), now_ns)
        if encoded:
            heapq.heappush(self.events, (now_ns, ENCODER, 0))
            return
        for end_ns in self.encoders.begin_batches(now_ns):
            heapq.heappush(self.events, (end_ns, ENCODER, 0))

    def _land_embeddings(self, now_ns: int) -> None:
        assert self.encoders is not None
        for number in self.encoders.transfers.advance(now_ns):
            self._join(self.encoders.come(number, now_ns), now_ns)

    # KV on its way --------------------------------------------------------------------------------------------

    def _take_on(self, instance: StepwiseInstance, now_ns: int) -> None:
        """Send on who was handed over, and the KV of those for whom there are blocks."""
        if self.disaggregation is None:
            return
        for request in instance.handed_over:
            heapq.heappush(self.events, (now_ns + self.disaggregation.handoff_ns, HANDOVER, request.row))
        instance.handed_over = []
        for request, tokens in instance.reserved:
            if self.disaggregation.transfers is None:
                self._let_go(request, now_ns)
            else:
                self.on_the_way[self._start(self.disaggregation.transfers, request, tokens, now_ns)] = request
                self._share_links(range(len(self.units)), now_ns)
        instance.reserved = []

    def _start(self, transfers: Transfers, request: StepwiseRequest, tokens: int, now_ns: int) -> int:
        """Begin a transfer; some want to know how long the prompt was computed, if that was done in one piece."""
        source, target = request.prefill_instance, request.instance
        if not getattr(transfers, "overlaps", False):
            return transfers.start(now_ns, source, target, tokens)
        produced_ns = 0 if request.preemptions else request.handed_over_ns - request.first_scheduled_ns
        return transfers.start(now_ns, source, target, tokens, produced_ns=produced_ns)  # type: ignore[call-arg]

    def _land(self, now_ns: int) -> None:
        """Let the requests go on whose KV has come, or whose embeddings have come over the same network."""
        assert self.disaggregation is not None
        assert self.disaggregation.transfers is not None
        for number in self.disaggregation.transfers.advance(now_ns):
            if self.encoders and self.encoders.transfers.shared and number in self.encoders.on_the_way:
                self._join(self.encoders.come(number, now_ns), now_ns)
                continue
            request = self.on_the_way.pop(number)
            self._let_go(request, now_ns)
            instance = self.instances[request.instance]
            instance.land(request, now_ns)
            self._notify(instance, now_ns)
        if isinstance(self.disaggregation.transfers, KvTransfers):
            for step in self.disaggregation.transfers.network.steps_ended():
                number = self.on_links.pop(step)
                self.units[number].end_wave_at(now_ns)
                self._look_later(number, now_ns)

    def _share_links(self, numbers: Sequence[int], now_ns: int) -> None:
        """Let the waves of units share links with KV that crosses them; when they end is then the network's matter."""
        transfers = self.disaggregation.transfers if self.disaggregation else None
        if not isinstance(transfers, KvTransfers) or not transfers.shares_steps:
            return
        for number in numbers:
            unit = self.units[number]
            if number in self.on_links.values() or not unit.waves or unit.waves[0].end_ns <= now_ns:
                continue
            wave = unit.waves[0]
            ranks = [rank.number for rank in unit.ranks]
            lasts_ns, left_ns = wave.end_ns - wave.start_ns, wave.end_ns - now_ns
            step = transfers.begin_step(now_ns, ranks, wave.shapes, lasts_ns, left_ns)
            if step is not None:
                self.on_links[step] = number
                unit.event_times.discard(wave.end_ns)
                wave.end_ns = FAR_NS

    def _let_go(self, request: StepwiseRequest, now_ns: int) -> None:
        """Give the blocks back in which a request's prompt was computed."""
        instance = self.instances[request.prefill_instance]
        instance.cache.release(instance.held.pop(request.row))
        self._notify(instance, now_ns)

    # Requests end ---------------------------------------------------------------------------------------------

    def _reject(self, request: StepwiseRequest, reason: str, now_ns: int) -> None:
        request.state = "rejected"
        request.reason = reason
        self._after(request, now_ns)

    def _after(self, request: StepwiseRequest, now_ns: int) -> None:
        """Release whoever waits for a request's end."""
        w = self.workload
        client_ns = now_ns + (self.front_end.response_ns if request.state == "completed" else 0)
        children = [row for row in range(len(w)) if w.parent is not None and w.parent[row] == request.row]
        for row in children:
            if request.state == "rejected":
                self.requests[row].arrival_ns = now_ns
                self._reject(self.requests[row], "an earlier turn of its session was rejected", now_ns)
            else:
                self._release(row, client_ns + self._delay(row))
        if not children and w.concurrency:
            self._release_next_item(client_ns)

    # Steps ----------------------------------------------------------------------------------------------------

    def _look_later(self, number: int, event_ns: int) -> None:
        self.units[number].event_times.add(event_ns)
        heapq.heappush(self.events, (event_ns, UNIT, number))

    def _look_at(self, number: int, now_ns: int) -> None:
        """End a unit's wave if one ends now, and fill its free slots."""
        unit = self.units[number]
        if now_ns not in unit.event_times:
            return
        unit.event_times.remove(now_ns)
        for request in unit.end_wave(now_ns):
            self._after(request, now_ns)
        for end_ns in unit.start_waves(now_ns):
            self._look_later(number, end_ns)
        self._share_links([number], now_ns)
        for rank in unit.ranks:
            self._take_on(rank, now_ns)
            for landing_ns, request in rank.started:
                heapq.heappush(self.events, (landing_ns, RECALL, request.row))
            rank.started = []


def _units(instances: Sequence[StepwiseInstance], first_poll_ns: int) -> list[StepwiseUnit]:
    """Put instances of one group together; any other is a unit by itself."""
    groups: list[list[StepwiseInstance]] = []
    for instance in instances:
        group = instance.spec.group
        if group >= 0 and groups and groups[-1][0].spec.group == group:
            groups[-1].append(instance)
        else:
            groups.append([instance])
    return [StepwiseUnit(ranks, first_poll_ns) for ranks in groups]
