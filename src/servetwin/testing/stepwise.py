"""The stepwise engine: slow, obvious, one request and one block at a time. The fast engine must equal it.

It shares with the fast engine only the policies (scheduler, ordering, router), the step models, the execution plans and
the rule of rejection; the event loop, the KV cache, the batches in flight and the records are written a second time, in
the plainest way.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servetwin.cluster.base import ClusterView, FrontEnd, InstanceSpec, RequestView, Router
from servetwin.core.errors import StuckError
from servetwin.core.units import NS_PER_S
from servetwin.engine.admission import rejection_reason
from servetwin.testing.stepwise_instance import StepwiseInstance
from servetwin.testing.stepwise_kv_cache import StepwiseRequest
from servetwin.testing.stepwise_unit import StepwiseUnit
from servetwin.workload.base import NO_PARENT, DistinctContents, Workload

ARRIVAL, UNIT = 0, 1


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
) -> StepwiseOutcome:
    """Run a workload to its end, one step at a time; same meaning as ``servetwin.cluster.simulation.simulate``."""
    return _StepwiseLoop(workload, instances, router, staleness_ns, front_end or FrontEnd()).run()


class _StepwiseLoop:
    def __init__(
        self,
        workload: Workload,
        specs: Sequence[InstanceSpec],
        router: Router,
        staleness_ns: int,
        front_end: FrontEnd,
    ) -> None:
        self.workload = workload
        self.router = router
        self.staleness_ns = staleness_ns
        self.front_end = front_end
        known = [int(t) for t in workload.arrival_ns if t >= 0]
        first_poll = min([t + front_end.request_ns for t in known] + [NS_PER_S])
        self.instances = [StepwiseInstance(spec, number) for number, spec in enumerate(specs)]
        self.units = _units(self.instances, first_poll)
        self.events: list[tuple[int, int, int]] = []
        self.requests = [self._request(row) for row in range(len(workload))]
        self.view: ClusterView | None = None
        self.view_ns = 0
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
        while self.events:
            now_ns, kind, number = heapq.heappop(self.events)
            if kind == ARRIVAL:
                self._arrive(self.requests[number], now_ns)
            else:
                self._look_at(number, now_ns)
        left = [request.row for request in self.requests if request.state == "unfinished"]
        if left:
            raise StuckError(f"{len(left)} requests never finished, first row {left[0]}")
        return StepwiseOutcome(self.requests, self.instances, now_ns)

    def _arrive(self, request: StepwiseRequest, now_ns: int) -> None:
        request.arrival_ns = now_ns
        candidates = [
            i
            for i, x in enumerate(self.instances)
            if None in (x.spec.model, request.model) or x.spec.model == request.model
        ]
        if not candidates:
            self._reject(request, f"no pool serves the model {request.model!r}", now_ns)
            return
        request.instance = self._choose(request, candidates, now_ns)
        instance = self.instances[request.instance]
        settings = instance.settings
        blocks = -(-(request.prompt_tokens + request.output_tokens - 1) // settings.block_size)
        if request.prompt_tokens + request.output_tokens > settings.max_model_len or blocks > settings.num_blocks:
            self._reject(request, rejection_reason(settings, request.prompt_tokens, request.output_tokens), now_ns)
            return
        contents = self.workload.contents or DistinctContents(self.workload.prompt_tokens + self.workload.output_tokens)
        if instance.settings.enable_prefix_caching:
            request.keys = contents.block_keys(request.row, instance.settings.block_size)
        instance.enqueue(request)
        instance.note(now_ns)
        number = next(i for i, unit in enumerate(self.units) if instance in unit.ranks)
        event_ns = self.units[number].arrival_event_ns(instance, now_ns, self.units)
        if event_ns is not None:
            self._look_later(number, event_ns)

    def _choose(self, request: StepwiseRequest, candidates: list[int], now_ns: int) -> int:
        keys: Sequence[int] = ()
        if "block_keys" in self.router.reads and self.workload.contents is not None:
            block_size = self.instances[0].settings.block_size
            keys = self.workload.contents.block_keys(request.row, block_size)[: request.prompt_tokens // block_size]
        view = RequestView(
            request.row, now_ns, request.prompt_tokens, request.session_id, request.model, request.priority, keys
        )
        if self.view is None or now_ns - self.view_ns >= self.staleness_ns:
            self.view, self.view_ns = self._look(), now_ns
        return self.router.choose(view, self.view, np.array(candidates, dtype=np.int64))

    def _look(self) -> ClusterView:
        def column(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.array(values, dtype=np.int64)

        return ClusterView(
            waiting=column([len(x.waiting) for x in self.instances]),
            running=column([len(x.running) for x in self.instances]),
            outstanding=column([len(x.waiting) + len(x.running) for x in self.instances]),
            kv_used_blocks=column([x.cache.used_blocks for x in self.instances]),
            kv_blocks=column([x.cache.num_blocks for x in self.instances]),
            max_num_seqs=column([x.settings.max_num_seqs for x in self.instances]),
        )

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

    def _look_later(self, number: int, event_ns: int) -> None:
        self.units[number].event_times.add(event_ns)
        heapq.heappush(self.events, (event_ns, UNIT, number))

    def _look_at(self, number: int, now_ns: int) -> None:
        """End a unit's wave if one ends now, and fill its free slots."""
        unit = self.units[number]
        unit.event_times.remove(now_ns)
        for request in unit.end_wave(now_ns):
            self._after(request, now_ns)
        for end_ns in unit.start_waves(now_ns):
            self._look_later(number, end_ns)


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
