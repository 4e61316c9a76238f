"""The stepwise engine: slow, obvious, one request and one block at a time. The fast engine must equal it.

It shares with the fast engine only the policies (scheduler, ordering, router), the step model and the rule of
rejection; the event loop, the KV cache and the records are written a second time, in the plainest way.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from servetwin.cluster.base import ClusterView, FrontEnd, InstanceSpec, RequestView, Router
from servetwin.core.errors import StuckError
from servetwin.core.units import NS_PER_S
from servetwin.engine.admission import rejection_reason
from servetwin.engine.base import SchedulerView
from servetwin.step.base import StepShape
from servetwin.workload.base import NO_PARENT, DistinctContents, Workload

ARRIVAL, STEP = 0, 1


@dataclass(slots=True)
class StepwiseRequest:
    """One request and all that is known of it."""

    row: int
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    session_id: str | None = None
    model: str | None = None
    keys: Sequence[int] = ()
    arrival_ns: int = -1
    instance: int = -1
    state: str = "unfinished"
    reason: str = ""
    first_scheduled_ns: int = -1
    finish_ns: int = -1
    cached_tokens: int = -1
    recomputed_tokens: int = 0
    preemptions: int = 0
    token_times_ns: list[int] = field(default_factory=list)
    computed: int = 0
    computed_before_preemption: int = 0
    prefilling: bool = True
    blocks: list[int] = field(default_factory=list)

    @property
    def known_tokens(self) -> int:
        """Prompt and generated tokens so far."""
        return self.prompt_tokens + len(self.token_times_ns)


class StepwiseKVCache:
    """Every block by its number: reference counts, keys, and one first-in-first-out free list."""

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.num_blocks = num_blocks
        self.free = list(range(num_blocks))
        self.references = [0] * num_blocks
        self.key_of: dict[int, int] = {}
        self.holders: dict[int, list[int]] = {}

    def lookup(self, request: StepwiseRequest) -> list[int]:
        """Return the longest run of cached blocks from the start; the last known token is always computed."""
        hits: list[int] = []
        if not self.enable_prefix_caching:
            return hits
        for key in request.keys[: (request.known_tokens - 1) // self.block_size]:
            if not self.holders.get(key):
                break
            hits.append(self.holders[key][0])
        return hits

    def missing(self, request: StepwiseRequest, hits: list[int], tokens: int) -> int:
        """Return how many free blocks it takes to hold ``tokens`` tokens of a request."""
        new = max(0, -(-tokens // self.block_size) - len(request.blocks) - len(hits))
        return new + sum(self.references[block] == 0 for block in hits)

    def allocate(self, request: StepwiseRequest, hits: list[int], tokens: int) -> bool:
        """Give a request the blocks for its first ``tokens`` tokens, all or nothing; full ones become findable."""
        if self.missing(request, hits, tokens) > len(self.free):
            return False
        for block in hits:
            if self.references[block] == 0:
                self.free.remove(block)
            self.references[block] += 1
            request.blocks.append(block)
        while len(request.blocks) * self.block_size < tokens:
            block = self.free.pop(0)
            self._evict(block)
            self.references[block] = 1
            request.blocks.append(block)
        if self.enable_prefix_caching:
            for i in range(tokens // self.block_size):
                block = request.blocks[i]
                if block not in self.key_of:
                    self.key_of[block] = request.keys[i]
                    self.holders.setdefault(request.keys[i], []).append(block)
        return True

    def release(self, request: StepwiseRequest) -> None:
        """Drop a request's references, last block first."""
        for block in reversed(request.blocks):
            self.references[block] -= 1
            if self.references[block] == 0:
                self.free.append(block)
        request.blocks = []

    def _evict(self, block: int) -> None:
        key = self.key_of.pop(block, None)
        if key is not None:
            self.holders[key].remove(block)

    @property
    def used_blocks(self) -> int:
        """Referenced blocks."""
        return self.num_blocks - len(self.free)

    @property
    def cached_blocks(self) -> int:
        """Reusable and unreferenced blocks."""
        return sum(block in self.key_of for block in self.free)


class StepwiseInstance:
    """One serving instance, request by request."""

    def __init__(self, spec: InstanceSpec, first_poll_ns: int) -> None:
        self.spec = spec
        settings = spec.settings
        self.settings = settings
        self.cache = StepwiseKVCache(settings.num_blocks, settings.block_size, settings.enable_prefix_caching)
        self.waiting: list[tuple[tuple[int, ...], int, StepwiseRequest]] = []
        self.running: list[StepwiseRequest] = []
        self.scheduled: dict[int, int] = {}
        self.by_row: dict[int, StepwiseRequest] = {}
        self.batch_started = False
        self.busy = False
        self.idle_since_ns = first_poll_ns
        self.preempted = False
        self.known_ns = 0
        self.budget = 0
        self.steps: list[tuple[int, int, int, int, int, int]] = []
        self.gauges: list[tuple[int, int, int, int, int]] = []
        self.idle: list[tuple[int, int]] = []
        self.preempted_ns: list[int] = []
        self.readmitted_ns: list[int] = []

    def enqueue(self, request: StepwiseRequest) -> None:
        """Put a request into the waiting queue."""
        key = self.spec.ordering.key(request.arrival_ns, request.priority, request.prompt_tokens)
        bisect.insort(self.waiting, (key, request.row, request), key=lambda item: item[:2])

    def wake_ns(self, now_ns: int, cluster: Sequence[StepwiseInstance]) -> int:
        """Return when an idle instance notices an arrival at ``now_ns``.

        While another instance computes, all are looked at; else at multiples of the poll after the last one fell idle.
        """
        poll = self.settings.idle_poll_ns
        if not poll or any(other.busy and other.scheduled for other in cluster):
            return now_ns
        idle_since_ns = max(other.idle_since_ns for other in cluster)
        return idle_since_ns + max(0, -(-(now_ns - idle_since_ns) // poll)) * poll

    def plan(self, now_ns: int) -> int | None:
        """Schedule the next step and return when it ends, or None when there is nothing to do."""
        ahead = self.settings.async_scheduling and bool(self.steps) and self.steps[-1][1] == now_ns
        self.known_ns = self.steps[-1][0] if ahead else now_ns
        while True:
            self._plan_once(now_ns)
            if self.scheduled:
                break
            if not self.preempted:
                if self.known_ns == now_ns:
                    break
                self.known_ns = now_ns
        if not self.scheduled:
            self.busy = False
            self.idle_since_ns = now_ns
            self.idle.append((now_ns, self.cache.cached_blocks))
            self.note(now_ns)
            return None
        self.busy = True
        duration = self.spec.step_model.duration_ns(self._shape())
        for row, tokens in self.scheduled.items():
            self.by_row[row].computed += tokens
        decoded = sum(not self.by_row[row].prefilling for row in self.scheduled)
        used, cached = self.cache.used_blocks, self.cache.cached_blocks
        self.steps.append((now_ns, now_ns + duration, decoded, sum(self.scheduled.values()), used, cached))
        self.note(now_ns)
        return now_ns + duration

    def _plan_once(self, now_ns: int) -> None:
        self.scheduled = {}
        self.preempted = False
        self.budget = self.settings.max_num_batched_tokens
        prefilling = sum(request.prefilling for request in self.running)
        policy = self.spec.scheduler.plan(
            SchedulerView(
                num_waiting=len(self.waiting),
                num_decoding=len(self.running) - prefilling,
                num_prefilling=prefilling,
                batch_started=self.batch_started,
                enable_chunked_prefill=self.settings.enable_chunked_prefill,
            )
        )
        if policy.decode == "first":
            self._run_running(now_ns, decodes=True, prefills=True)
            if policy.admit and not self.preempted:
                self._admit(now_ns, policy.chunk)
        else:
            self._run_running(now_ns, decodes=False, prefills=True)
            if policy.admit and not self.preempted:
                self._admit(now_ns, policy.chunk)
            if not self.scheduled and not self.preempted:
                self._run_running(now_ns, decodes=True, prefills=False)

    def _run_running(self, now_ns: int, decodes: bool, prefills: bool) -> None:
        index = 0
        while index < len(self.running) and self.budget > 0:
            request = self.running[index]
            wanted = prefills if request.prefilling else decodes
            if not wanted:
                index += 1
                continue
            tokens = min(self._cap(request.known_tokens - request.computed), self.budget)
            while not self.cache.allocate(request, [], request.computed + tokens):
                victim = self._victim()
                position = self.running.index(victim)
                self.running.remove(victim)
                if position < index:
                    index -= 1
                self.budget += self.scheduled.pop(victim.row, 0)
                self._preempt(victim, now_ns)
                if victim is request:
                    return
            self.scheduled[request.row] = tokens
            self.budget -= tokens
            index += 1

    def _cap(self, tokens: int) -> int:
        threshold = self.settings.long_prefill_token_threshold
        return min(tokens, threshold) if threshold else tokens

    def _victim(self) -> StepwiseRequest:
        ordering = self.spec.ordering
        if not ordering.preempts_by_key:
            return self.running[-1]
        return max(self.running, key=lambda r: (ordering.key(r.arrival_ns, r.priority, r.prompt_tokens), r.row))

    def _preempt(self, victim: StepwiseRequest, now_ns: int) -> None:
        self.preempted = True
        self.preempted_ns.append(now_ns)
        self.cache.release(victim)
        victim.preemptions += 1
        victim.computed_before_preemption = max(victim.computed, victim.computed_before_preemption)
        victim.computed = 0
        victim.prefilling = True
        self.enqueue(victim)

    def _admit(self, now_ns: int, chunk: bool) -> None:
        while self.waiting and self.budget > 0 and len(self.running) < self.settings.max_num_seqs:
            request = self.waiting[0][2]
            if request.arrival_ns > self.known_ns:
                return
            hits = self.cache.lookup(request)
            found = len(hits) * self.settings.block_size
            tokens = request.known_tokens - found
            if not chunk and tokens > self.budget:
                return
            if chunk:
                tokens = min(self._cap(tokens), self.budget)
            whole = self.cache.missing(request, hits, request.known_tokens)
            if self.settings.scheduler_reserve_full_isl and whole > len(self.cache.free):
                return
            if not self.cache.allocate(request, hits, found + tokens):
                return
            self.waiting.pop(0)
            self.running.append(request)
            self.by_row[request.row] = request
            request.computed = found
            if request.preemptions:
                self.readmitted_ns.append(now_ns)
            else:
                request.first_scheduled_ns = now_ns
                request.cached_tokens = found
            request.recomputed_tokens += max(0, request.computed_before_preemption - found)
            request.computed_before_preemption = 0
            self.scheduled[request.row] = tokens
            self.budget -= tokens

    def _shape(self) -> StepShape:
        requests = [(self.by_row[row], tokens) for row, tokens in self.scheduled.items()]
        contexts = [request.computed for request, _ in requests if not request.prefilling]
        return StepShape(
            num_decodes=len(contexts),
            decode_kv_tokens=sum(contexts),
            prefills=tuple((tokens, request.computed) for request, tokens in requests if request.prefilling),
            decode_kv_max=max(contexts, default=0),
            decode_kv_min=min(contexts, default=0),
            decode_prompts=self._decode_prompts(),
        )

    def _decode_prompts(self) -> tuple[int, ...]:
        if self.spec.step_model is None or "decode_prompts" not in self.spec.step_model.needs:
            return ()
        decoding = [r for r in self.running if r.row in self.scheduled and not r.prefilling]
        return tuple(r.prompt_tokens for r in decoding)

    def complete(self, now_ns: int) -> list[StepwiseRequest]:
        """End the step: tokens appear; return the requests that finished."""
        finished = []
        for row in self.scheduled:
            request = self.by_row[row]
            if not request.prefilling:
                self.batch_started = True
            if request.computed < request.known_tokens:
                continue
            request.prefilling = False
            request.token_times_ns.append(now_ns)
            if len(request.token_times_ns) == request.output_tokens:
                request.state = "completed"
                request.finish_ns = now_ns
                self.running.remove(request)
                self.cache.release(request)
                finished.append(request)
        if not self.running:
            self.batch_started = False
        return finished

    def note(self, now_ns: int) -> None:
        """Write down the gauges."""
        used, cached = self.cache.used_blocks, self.cache.cached_blocks
        self.gauges.append((now_ns, len(self.running), len(self.waiting), used, cached))


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
        self.instances = [StepwiseInstance(spec, first_poll) for spec in specs]
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
                self._step(number, now_ns)
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
        if not instance.busy:
            instance.busy = True
            heapq.heappush(self.events, (instance.wake_ns(now_ns, self.instances), STEP, request.instance))

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

    def _step(self, number: int, now_ns: int) -> None:
        instance = self.instances[number]
        for request in instance.complete(now_ns):
            self._after(request, now_ns)
        instance.scheduled = {}
        end_ns = instance.plan(now_ns)
        if end_ns is not None:
            heapq.heappush(self.events, (end_ns, STEP, number))
