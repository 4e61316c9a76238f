"""One serving instance of the stepwise engine (a rank, where it belongs to a group): it schedules and ends batches."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from servetwin.cluster.base import Disaggregation, InstanceSpec
from servetwin.core.errors import StuckError
from servetwin.engine.base import FirstToken, SchedulerView
from servetwin.memory.tiers import Recall
from servetwin.step.base import StepShape
from servetwin.testing.stepwise_kv_cache import StepwiseKVCache, StepwiseRequest
from servetwin.testing.stepwise_tiers import StepwiseTiers

MOST_FRUITLESS_PREEMPTIONS = 10_000


@dataclass(slots=True, eq=False)
class StepwiseEntry:
    """What a batch computes of one request."""

    request: StepwiseRequest
    tokens: int
    context: int
    decodes: bool
    gives_token: bool
    """Whether it computes the last of the request's known tokens, so that the next one appears at its end."""


@dataclass(slots=True, eq=False)
class StepwiseBatch:
    """What one instance computes in one step; empty for a rank that only keeps the others company."""

    entries: list[StepwiseEntry] = field(default_factory=list)
    recalls: list[Recall] = field(default_factory=list)
    """What it reads from tiers."""

    @property
    def decoded(self) -> int:
        """Requests that decode in it."""
        return sum(entry.decodes for entry in self.entries)

    @property
    def tokens(self) -> int:
        """Tokens that it computes."""
        return sum(entry.tokens for entry in self.entries)

    def shape(self, draw: int) -> StepShape:
        """Return what it computes, as step models and plans see it."""
        contexts = [entry.context for entry in self.entries if entry.decodes]
        return StepShape(
            num_decodes=len(contexts),
            decode_kv_tokens=sum(contexts),
            prefills=tuple((entry.tokens, entry.context) for entry in self.entries if not entry.decodes),
            decode_kv_max=max(contexts, default=0),
            decode_kv_min=min(contexts, default=0),
            draw=draw,
            decode_prompts=tuple(entry.request.prompt_tokens for entry in self.entries if entry.decodes),
        )


class StepwiseInstance:
    """One serving instance, request by request."""

    def __init__(self, spec: InstanceSpec, number: int, disaggregation: Disaggregation | None) -> None:
        self.spec = spec
        self.number = number
        self.tiers: StepwiseTiers | None = None
        self.ready_ns = 0
        """When the batch that is being put together has all it recalls from tiers."""
        self.asked_ns = 0
        self.recalls: list[Recall] = []
        self.started: list[tuple[int, StepwiseRequest]] = []
        """When recalls that no step waits for will have come, and for whom."""
        self.recalled: list[tuple[int, int, int, int, int]] = []
        """Request, tier, tokens, when, and when they were there."""
        settings = spec.settings
        self.settings = settings
        self.cache = StepwiseKVCache(settings.num_blocks, settings.block_size, settings.enable_prefix_caching)
        self.hands_over: FirstToken | None = None
        if disaggregation is not None and spec.role == "prefill":
            self.hands_over = disaggregation.first_token
        self.instant_transfers = disaggregation is not None and disaggregation.transfers is None
        self.handed_over: list[StepwiseRequest] = []
        """Requests that have just left for somewhere else."""
        self.held: dict[int, list[int]] = {}
        """By row: blocks of requests that left, until their KV has come to where they went."""
        self.num_coming = 0
        """Requests whose embeddings are on their way here."""
        self.num_loading = 0
        """Requests that have their blocks here and whose KV is on its way."""
        self.reserved: list[tuple[StepwiseRequest, int]] = []
        """Requests that have just got blocks, and how many tokens' KV must come for each."""
        self.waiting: list[tuple[tuple[int, ...], int, StepwiseRequest]] = []
        self.running: list[StepwiseRequest] = []
        self.scheduled: dict[int, tuple[StepwiseRequest, int]] = {}
        self.batch_started = False
        self.preempted = False
        self.short_of_blocks = False
        self.known_ns = 0
        self.budget = 0
        self.fruitless_preemptions = 0
        self.steps: list[tuple[int, int, int, int, int, int]] = []
        self.gauges: list[tuple[int, int, int, int, int]] = []
        self.idle: list[tuple[int, int, int]] = []
        self.preemptions: list[tuple[int, int]] = []
        self.readmissions: list[tuple[int, int]] = []

    def enqueue(self, request: StepwiseRequest) -> None:
        """Put a request into the waiting queue."""
        key = self.spec.ordering.key(request.joined_ns, request.priority, request.prompt_tokens)
        bisect.insort(self.waiting, (key, request.row, request), key=lambda item: item[:2])

    def begin_step(self, now_ns: int) -> None:
        """Begin to put a batch together; it may take several attempts."""
        self.ready_ns, self.asked_ns = 0, now_ns
        self.recalls = []

    def schedule(self, now_ns: int, known_ns: int) -> bool:
        """Choose the next batch among the requests known at ``known_ns``; return whether there is one."""
        self.scheduled = {}
        self.preempted = False
        self.short_of_blocks = False
        self.known_ns = known_ns
        self.budget = self._token_budget()
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
            if policy.admit and not self.preempted and not self.short_of_blocks:
                self._admit(now_ns, policy.chunk)
        else:
            self._run_running(now_ns, decodes=False, prefills=True)
            if policy.admit and not self.preempted:
                self._admit(now_ns, policy.chunk)
            if not self.scheduled and not self.preempted:
                self._run_running(now_ns, decodes=True, prefills=False)
        return bool(self.scheduled)

    def _token_budget(self) -> int:
        """Return the most tokens of a step; with dynamic chunking, by the first prompt that has tokens left for it."""
        open_prompts = [r for r in self.running if r.prefilling and r.computed < r.known_tokens and self._eligible(r)]
        if self.settings.dynamic_chunking is None or not open_prompts:
            return self.settings.max_num_batched_tokens
        return self.settings.dynamic_chunking.tokens_behind(open_prompts[0].computed)

    def _eligible(self, request: StepwiseRequest) -> bool:
        """Return whether a running request may be in the batch that is being put together."""
        if not request.in_flight:
            return True
        more = request.prefilling and request.computed < request.known_tokens
        return more and self.settings.overlap_chunks

    def _run_running(self, now_ns: int, decodes: bool, prefills: bool) -> None:
        index = 0
        while index < len(self.running) and self.budget > 0:
            request = self.running[index]
            wanted = prefills if request.prefilling else decodes
            if not wanted or not self._eligible(request):
                index += 1
                continue
            tokens = min(self._cap(request.known_tokens - request.computed), self.budget)
            while not self.cache.allocate(request, [], request.computed + tokens):
                victim = self._victim()
                if victim.in_flight:
                    self.short_of_blocks = True
                    return
                position = self.running.index(victim)
                self.running.remove(victim)
                if position < index:
                    index -= 1
                if victim.row in self.scheduled:
                    self.budget += self.scheduled.pop(victim.row)[1]
                self._preempt(victim, now_ns)
                if victim is request:
                    return
            self.scheduled[request.row] = (request, tokens)
            self.budget -= tokens
            index += 1

    def _cap(self, tokens: int) -> int:
        threshold = self.settings.long_prefill_token_threshold
        return min(tokens, threshold) if threshold else tokens

    def _victim(self) -> StepwiseRequest:
        """Return who gives way; while that one is in flight nobody does."""
        ordering = self.spec.ordering
        if not ordering.preempts_by_key:
            return self.running[-1]
        return max(self.running, key=lambda r: (ordering.key(r.joined_ns, r.priority, r.prompt_tokens), r.row))

    def _preempt(self, victim: StepwiseRequest, now_ns: int) -> None:
        self.preempted = True
        self.preemptions.append((now_ns, victim.row))
        self.fruitless_preemptions += 1
        if self.fruitless_preemptions > MOST_FRUITLESS_PREEMPTIONS:
            raise StuckError(f"{MOST_FRUITLESS_PREEMPTIONS} preemptions without one token in between")
        if self.tiers is not None and self.tiers.spec.preempted == "swap":
            self.ready_ns = max(self.ready_ns, self.tiers.swap_out(victim, now_ns))
        self.cache.release(victim.blocks)
        victim.preemptions += 1
        victim.computed_before_preemption = max(victim.computed, victim.computed_before_preemption)
        victim.computed = 0
        victim.prefilling = True
        self.enqueue(victim)

    def _admit(self, now_ns: int, chunk: bool) -> None:
        """Take the heads of the queue a step further, one by one; the first that cannot go stops all others."""
        while self.waiting and self.budget > 0 and len(self.running) < self.settings.max_num_seqs:
            request = self.waiting[0][2]
            if request.joined_ns > self.known_ns:
                return
            if request.remote == "wanted":
                goes_on = self._reserve(request, now_ns)
            elif request.remote == "landed":
                goes_on = self._admit_landed(request, now_ns)
            elif request.remote == "recalled":
                goes_on = self._admit_recalled(request, now_ns, chunk)
            else:
                goes_on = self._admit_local(request, now_ns, chunk)
            if not goes_on:
                return

    def _admit_local(self, request: StepwiseRequest, now_ns: int, chunk: bool) -> bool:
        """Let a request run that computes its KV here."""
        hits = self.cache.lookup(request, request.known_tokens)
        on_device = len(hits) * self.settings.block_size
        found = on_device
        if self.tiers is not None:
            found += self.tiers.found(request, on_device, now_ns)
            if found > on_device and self.tiers.spec.load == "async":
                return self._load(request, hits, found, now_ns)
        tokens = request.known_tokens - found
        if not chunk and tokens > self.budget:
            return False
        if chunk:
            tokens = min(self._cap(tokens), self.budget)
        whole = self.cache.missing(request, hits, request.known_tokens)
        if self.settings.scheduler_reserve_full_isl and whole > len(self.cache.free):
            return False
        if not self.cache.allocate(request, hits, found + tokens):
            return False
        self._recall(request, on_device, now_ns)
        self._note_admission(request, on_device, found, now_ns)
        self._enter(request, found, tokens)
        return True

    def _note_admission(self, request: StepwiseRequest, on_device: int, found: int, now_ns: int) -> None:
        if request.first_scheduled_ns >= 0:
            self.readmissions.append((now_ns, request.row))
        else:
            request.first_scheduled_ns = now_ns
            request.cached_tokens = on_device
        request.recomputed_tokens += max(0, request.computed_before_preemption - found)
        request.computed_before_preemption = 0

    def _load(self, request: StepwiseRequest, hits: list[int], found: int, now_ns: int) -> bool:
        """Give a request blocks for what comes from the tiers while steps go on; it takes no seat and no budget."""
        assert self.tiers is not None
        held = request.known_tokens if self.settings.scheduler_reserve_full_isl else found
        if self.cache.missing(request, hits, held) > len(self.cache.free):
            return False
        self.cache.reserve(request, hits, found)
        self.waiting.pop(0)
        self.num_loading += 1
        request.remote = "loading"
        request.saved_chunks = 0
        request.computed = found
        request.on_device = len(hits) * self.settings.block_size
        recall, self.asked_ns, parts = self.tiers.recall(request, request.on_device, now_ns, self.asked_ns)
        self.ready_ns = max(self.ready_ns, self.asked_ns)
        request.recall = recall
        self.recalled += [(request.row, tier, tokens, now_ns, end_ns) for tier, tokens, end_ns in parts]
        self.started.append((max(end_ns for _, _, end_ns in parts), request))
        return True

    def land_recall(self, request: StepwiseRequest, now_ns: int) -> None:
        """Put a request whose KV has come from the tiers back where it stood in the queue."""
        assert self.tiers is not None
        assert request.recall is not None
        self.tiers.finish_recall(request.recall, now_ns)
        request.remote = "recalled"
        self.num_loading -= 1
        self.cache.register(request, request.computed)
        self.enqueue(request)

    def _admit_recalled(self, request: StepwiseRequest, now_ns: int, chunk: bool) -> bool:
        """Let a request run whose KV has come from the tiers."""
        tokens = request.known_tokens - request.computed
        if not chunk and tokens > self.budget:
            return False
        if chunk:
            tokens = min(self._cap(tokens), self.budget)
        whole = self.cache.missing(request, [], request.known_tokens)
        if self.settings.scheduler_reserve_full_isl and whole > len(self.cache.free):
            return False
        if not self.cache.allocate(request, [], request.computed + tokens):
            return False
        request.remote = ""
        self._note_admission(request, request.on_device, request.computed, now_ns)
        self._enter(request, request.computed, tokens)
        return True

    def _recall(self, request: StepwiseRequest, on_device: int, now_ns: int) -> None:
        """Read from the tiers what they have of a request that is let in."""
        request.saved_chunks = 0
        if self.tiers is None:
            return
        recall, self.asked_ns, parts = self.tiers.recall(request, on_device, now_ns, self.asked_ns)
        self.ready_ns = max(self.ready_ns, self.asked_ns)
        if not parts:
            return
        self.recalls.append(recall)
        for tier, tokens, end_ns in parts:
            self.ready_ns = max(self.ready_ns, end_ns)
            self.recalled.append((request.row, tier, tokens, now_ns, end_ns))

    def _enter(self, request: StepwiseRequest, found: int, tokens: int) -> None:
        self.waiting.pop(0)
        self.running.append(request)
        request.computed = found
        self.scheduled[request.row] = (request, tokens)
        self.budget -= tokens

    def _reserve(self, request: StepwiseRequest, now_ns: int) -> bool:
        """Give a request blocks for the KV that comes from elsewhere; it takes no seat and no budget."""
        hits = self.cache.lookup(request, request.prompt_tokens)
        if self.cache.missing(request, hits, request.known_tokens) > len(self.cache.free):
            return False
        self.cache.reserve(request, hits, request.known_tokens - 1)
        self.waiting.pop(0)
        request.remote = "loading"
        self.num_loading += 1
        request.transfer_ns = now_ns
        self.reserved.append((request, request.known_tokens - 1 - len(hits) * self.settings.block_size))
        if self.instant_transfers:
            self.land(request, now_ns)
        return True

    def land(self, request: StepwiseRequest, now_ns: int) -> None:
        """Put a request whose KV has come back where it stood in the queue; others can find the KV, too."""
        request.remote = "landed"
        self.num_loading -= 1
        request.landed_ns = now_ns
        self.cache.register(request, request.known_tokens - 1)
        self.enqueue(request)

    def _admit_landed(self, request: StepwiseRequest, now_ns: int) -> bool:
        """Let a request run whose KV has come; one token is left to compute."""
        if not self.cache.allocate(request, [], request.known_tokens):
            return False
        request.remote = ""
        request.decode_admitted_ns = now_ns
        if self.tiers is not None:
            request.saved_chunks = len(self.tiers.keys(request, request.known_tokens - 1))
        self._enter(request, request.known_tokens - 1, 1)
        return True

    def start(self) -> StepwiseBatch:
        """Send what was scheduled on its way; its tokens count as computed from now on."""
        batch = StepwiseBatch(recalls=self.recalls)
        self.recalls = []
        for request, tokens in self.scheduled.values():
            context = request.computed
            request.computed += tokens
            request.in_flight.append(batch)
            gives_token = request.computed == request.known_tokens
            batch.entries.append(StepwiseEntry(request, tokens, context, not request.prefilling, gives_token))
        self.scheduled = {}
        return batch

    def write_step(self, start_ns: int, end_ns: int, batch: StepwiseBatch) -> None:
        """Write down a step that was just scheduled."""
        used, cached = self.cache.used_blocks, self.cache.cached_blocks
        self.steps.append((start_ns, end_ns, batch.decoded, batch.tokens, used, cached))

    def fall_idle(self, now_ns: int) -> None:
        """Write down that there is nothing to do."""
        self.idle.append((now_ns, self.cache.cached_blocks, self.cache.used_blocks))

    def complete(self, batch: StepwiseBatch, now_ns: int) -> list[StepwiseRequest]:
        """End a batch: tokens appear; return the requests that finished."""
        finished = []
        if self.tiers is not None:
            for recall in batch.recalls:
                self.tiers.finish_recall(recall, now_ns)
            for entry in batch.entries:
                if self.tiers.spec.saves == "all" or not entry.decodes:
                    self.tiers.save(entry.request, entry.context + entry.tokens, now_ns)
        for entry in batch.entries:
            request = entry.request
            request.in_flight.remove(batch)
            self.batch_started = self.batch_started or entry.decodes
            if not entry.gives_token:
                continue
            request.prefilling = False
            self.fruitless_preemptions = 0
            if self.hands_over != "decode":
                request.token_times_ns.append(now_ns)
            if len(request.token_times_ns) == request.output_tokens:
                request.state = "completed"
                request.finish_ns = now_ns
                self.running.remove(request)
                self.cache.release(request.blocks)
                finished.append(request)
            elif self.hands_over:
                self._hand_over(request, now_ns)
        if not self.running:
            self.batch_started = False
        return finished

    def _hand_over(self, request: StepwiseRequest, now_ns: int) -> None:
        """Let a request go whose prompt is computed; its blocks stay."""
        self.running.remove(request)
        self.held[request.row] = request.blocks
        request.blocks = []
        request.computed = 0
        request.prefilling = True
        request.remote = "wanted"
        request.prefill_instance = self.number
        request.handed_over_ns = now_ns
        self.handed_over.append(request)

    def note(self, now_ns: int) -> None:
        """Write down the gauges."""
        used, cached = self.cache.used_blocks, self.cache.cached_blocks
        self.gauges.append((now_ns, len(self.running), len(self.waiting) + self.num_loading, used, cached))
