"""One serving instance: plans steps, ends them, and lets unchanged batches run for many steps at once.

The life of a step: ``plan`` lets running requests and then waiting ones have tokens and blocks, asks the step model
how long that takes, and says when the step ends; ``complete`` is called then: tokens appear, requests join the cohort,
leave it, finish. When nothing can change for a while, the plan covers many steps (a run); an arrival that could change
something cuts it at the next boundary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from servetwin.core.errors import InvariantError
from servetwin.engine.base import StepPolicy
from servetwin.engine.dynamic_chunking import DynamicChunking
from servetwin.engine.handover import admit_remote, hand_over
from servetwin.engine.instance_state import InstanceState
from servetwin.engine.recalls import admit_recalled, load_apart
from servetwin.engine.records import log_spans, log_steps, write_rows
from servetwin.engine.request import LOCAL, RECALLED, Request
from servetwin.engine.running_order import schedule_in_order
from servetwin.engine.runs import adapt_run_limit, run_steps
from servetwin.step.base import StepShape, grown_by

FAR_NS = 2**62
DRAW_BITS = 40
"""More steps than 2 to this power would repeat another instance's draws."""


class Instance(InstanceState):
    """One serving instance; `InstanceState` says what it is made of."""

    __slots__ = ()

    # Arrivals -------------------------------------------------------------------------------------------------

    def order_key(self, row: int, arrival_ns: int, priority: int, prompt_tokens: int) -> tuple[int, ...]:
        """Return a request's place in the waiting queue."""
        if self.fifo:
            return (arrival_ns, row)
        return (*self.ordering.key(arrival_ns, priority, prompt_tokens), row)

    @property
    def computing(self) -> bool:
        """Whether a step is under way (an instance that only waits for its next poll is busy, but computes nothing)."""
        return self.busy and bool(self.ends_ns)

    def notice(self, now_ns: int, polls_from_ns: int, *, boundary_passed: bool = False) -> int | None:
        """Return the new time of the instance's next event if an arrival changes it, else None.

        Parameters
        ----------
        polls_from_ns
            From when an idle instance is polled (only with ``idle_poll_ns``).
        boundary_passed
            Whether a step that ends at ``now_ns`` has ended already: the arrival was released, at the same instant, by
            an instance that is served after this one.
        """
        if not self.busy:
            self.busy = True
            self.may_notice = False
            self.ends_ns = ()
            self.next_event_ns = self.wake_ns(now_ns, polls_from_ns)
            return self.next_event_ns
        return self.cut(now_ns + 1 if boundary_passed else now_ns)

    def next_look_ns(self, now_ns: int) -> int:
        """Return when idle instances are looked at next while this one computes: when one of its operators ends.

        Only where the step model knows its operators' ends, and arrivals are polled for (LLMServingSim). They are those
        of a step alone: of one that a shared link makes longer none is known beyond, and it is looked at once.
        """
        operator_ends_ns = getattr(self.step_model, "operator_ends_ns", None)
        if operator_ends_ns is None or now_ns > self.ends_ns[-1]:
            return now_ns
        step = bisect_left(self.ends_ns, now_ns)
        start_ns = self.ends_ns[step - 1] if step else self.start_ns
        shape = grown_by(self.planned_shape, step) if step else self.planned_shape
        ends = operator_ends_ns(shape)
        i = bisect_left(ends, now_ns - start_ns)
        return start_ns + ends[i] if i < len(ends) else self.ends_ns[step]

    def wake_ns(self, now_ns: int, polls_from_ns: int) -> int:
        """Return when an idle instance notices something that comes at ``now_ns``."""
        if now_ns < self.settings.ready_ns:
            return self.settings.ready_ns
        poll = self.settings.idle_poll_ns
        if not poll or now_ns <= polls_from_ns:
            return max(now_ns, polls_from_ns) if poll else now_ns
        return polls_from_ns - (polls_from_ns - now_ns) // poll * poll

    @property
    def step_under_way(self) -> tuple[int, int, Sequence[StepShape | None]]:
        """When the present step began, when it ends, and what it computes."""
        return self.start_ns, self.ends_ns[-1], (self.planned_shape,)

    def end_step_at(self, end_ns: int) -> None:
        """Let the present step, which is no run, end at another time than planned."""
        self.ends_ns = (end_ns,)
        self.next_event_ns = end_ns

    def cut(self, now_ns: int) -> int | None:
        """End the present run at its first boundary at or after ``now_ns``; return that time if it is new."""
        if len(self.ends_ns) <= 1:
            return None
        steps = bisect_left(self.ends_ns, now_ns) + 1
        if steps >= len(self.ends_ns):
            return None
        self.ends_ns = self.ends_ns[:steps]
        self.next_event_ns = self.ends_ns[-1]
        return self.next_event_ns

    # Planning -------------------------------------------------------------------------------------------------

    def plan(self, now_ns: int, horizon_ns: int = FAR_NS) -> int | None:
        """Schedule the next step or run; return when it ends, or None when the instance falls idle.

        Parameters
        ----------
        horizon_ns
            When something may cut a run; a run need not reach beyond the first boundary after that.
        """
        self._known_ns = self._last_start_ns(now_ns) if self.settings.async_scheduling else now_ns
        self.start_ns = now_ns
        if self.tiers is not None:
            self.ready_ns = 0
            self.tiers.begin_step(now_ns)
        while True:
            policy = self._schedule(now_ns)
            if self.decoding or self.chunks:
                break
            if not self.preempted and self._known_ns < now_ns:
                self._known_ns = now_ns  # nothing runs any more: there is nothing to plan ahead of
            elif not self.preempted:
                self._fall_idle(now_ns)
                return None
        spent = self.budget <= 0 and policy.decode == "first"
        self._deaf = len(self.running) >= self.settings.max_num_seqs
        self.closed = self._deaf or spent or not policy.admit
        self.policy = policy
        self._time_step(now_ns, horizon_ns)
        if self.ends_ns[0] <= now_ns:
            raise InvariantError(
                f"step model {type(self.step_model).__name__} says that a step takes {self.ends_ns[0] - now_ns} ns; "
                "durations are whole nanoseconds, at least 1"
            )
        self.busy = True
        self.next_event_ns = self.ends_ns[-1]
        return self.next_event_ns

    def _last_start_ns(self, now_ns: int) -> int:
        """Return until when requests must have come to enter: the last step's start, where this one is planned then."""
        if not self.ends_ns:
            return now_ns
        return self.ends_ns[-2] if len(self.ends_ns) > 1 else self.start_ns

    def _schedule(self, now_ns: int) -> StepPolicy:
        self.preempted = False
        self.decoding = False
        self.chunks = []
        settings = self.settings
        chunking = settings.dynamic_chunking
        self.budget = self.step_budget = (
            settings.max_num_batched_tokens if chunking is None else self._shrunk_budget(chunking)
        )
        policy = self._only_policy or self._ask_scheduler()
        if policy.decode == "first":
            if self.prefilling:
                self._schedule_decodes_and_prefills()
            elif self.cohort.size:
                self._schedule_decodes_only()
            if policy.admit and not self.preempted and self.waiting:
                self._admit(now_ns, policy.chunk)
        else:
            if self.prefilling:
                schedule_in_order(self, decodes=False, prefills=True)
            if policy.admit and not self.preempted and self.waiting:
                self._admit(now_ns, policy.chunk)
            if not self.chunks and not self.preempted and self.cohort.size:
                self._schedule_decodes_only()
        return policy

    def _shrunk_budget(self, chunking: DynamicChunking) -> int:
        """Return the most tokens of the next step, which fewer fit in the further a prompt is."""
        for request in self.prefilling:
            if self.wanted_tokens(request):
                return chunking.tokens_behind(request.computed_tokens)
        return self.settings.max_num_batched_tokens

    def _ask_scheduler(self) -> StepPolicy:
        view = self.view
        view.num_waiting = len(self.waiting)
        view.num_decoding = self.cohort.size
        view.num_prefilling = len(self.prefilling)
        view.batch_started = self.batch_started
        policy = self.scheduler.plan(view)
        if policy.__class__ is not StepPolicy:
            raise InvariantError(f"scheduler {type(self.scheduler).__name__} returned {policy!r}, not a StepPolicy")
        if self.asks_once:
            self._only_policy = policy
        return policy

    def _schedule_decodes_only(self) -> None:
        cohort = self.cohort
        blocks = cohort.counts[-cohort.round % self.block_size]
        if blocks > self.cache.free_blocks or cohort.size > self.budget:
            schedule_in_order(self, decodes=True, prefills=False)
            return
        if blocks:
            self.cache.take(blocks)
        if self.registers_answers:
            self.register_filling(0)
        self.decoding = True
        self.budget -= cohort.size

    def _schedule_decodes_and_prefills(self) -> None:
        cohort = self.cohort
        blocks = cohort.blocks_needed()
        budget = self.budget - cohort.size
        in_order = cohort.last_admission < self.prefilling[0].admission
        chunks = []
        wanted = 0
        for request in self.prefilling:
            tokens = self.wanted_tokens(request)
            wanted += tokens
            tokens = min(tokens, budget)
            if tokens > 0:
                blocks += -(-(request.computed_tokens + tokens) // self.block_size) - request.num_blocks
                budget -= tokens
                chunks.append((request, tokens))
        order_matters = not in_order and (self.shares_blocks or wanted > self.budget - cohort.size)
        if order_matters or budget < 0 or blocks > self.cache.free_blocks:
            schedule_in_order(self, decodes=True, prefills=True)
            return
        if cohort.size:
            self._schedule_decodes_only()
        for request, tokens in chunks:
            self.cache.extend(request, request.computed_tokens + tokens)
        self.chunks = chunks
        self.budget = budget

    def register_filling(self, rounds_ahead: int) -> None:
        """Let the blocks be found that cohort members fill in the round after ``rounds_ahead`` others."""
        context_after = self.cohort.round + rounds_ahead + 1
        for request in self.cohort.filling(rounds_ahead):
            self.cache.register(request, request.base + context_after)

    def running_order(self) -> list[Request]:
        """Return the running requests that may be scheduled, in order."""
        return list(self.running.values())

    def wanted_tokens(self, request: Request) -> int:
        """Return how many tokens of its prompt a running request may compute in a step, were it alone."""
        tokens = request.known_tokens - request.computed_tokens
        threshold = self.settings.long_prefill_token_threshold
        return min(tokens, threshold) if threshold else tokens

    def _admit(self, now_ns: int, chunk: bool) -> None:
        """Let waiting requests in, in order, while budget, seats and blocks last."""
        waiting, cache, settings, budget = self.waiting, self.cache, self.settings, self.budget
        tiers = self.tiers
        caching, reserve_all = settings.enable_prefix_caching, settings.scheduler_reserve_full_isl
        longest_chunk = settings.long_prefill_token_threshold if chunk else 0
        seats = settings.max_num_seqs - len(self.running)
        while waiting and budget > 0 and seats > 0:
            request = waiting[0]
            if request.arrival_ns > self._known_ns:
                break
            if request.remote:
                if request.remote == RECALLED:
                    tokens = admit_recalled(self, request, budget, chunk, now_ns)
                    if not tokens:
                        break
                    seats -= 1
                    budget -= tokens
                    continue
                if not admit_remote(self, request, now_ns):
                    break
                if request.row in self.running:
                    seats -= 1
                    budget -= 1
                continue
            hits = cache.lookup(request) if caching else ()
            found = len(hits) * self.block_size
            recalled = tiers.found(request, found, now_ns) if tiers is not None else 0
            if recalled and tiers is not None and tiers.loads_apart:
                if not load_apart(self, request, hits, recalled, now_ns):
                    break
                continue
            computed = found + recalled
            tokens = request.known_tokens - computed
            if longest_chunk and tokens > longest_chunk:
                tokens = longest_chunk
            if tokens > budget:
                if not chunk:
                    break
                tokens = budget
            held = request.known_tokens if reserve_all else computed + tokens
            if cache.missing(request, hits, held) > cache.free_blocks:
                break
            waiting.popleft()
            seats -= 1
            budget -= tokens
            cache.admit(request, hits, computed + tokens)
            self.enter(request, found, now_ns, recalled)
            if tiers is not None:
                tiers.recall(self, request, found, now_ns)
            self.chunks.append((request, tokens))
        self.budget = budget

    def enter(self, request: Request, found: int, now_ns: int, recalled: int = 0) -> None:
        """Let a request run, ``found`` tokens of which are there already, and ``recalled`` more come from tiers."""
        requests, row = self.requests, request.row
        request.admission = self._admissions
        self._admissions += 1
        request.computed_tokens = found + recalled
        self.running[row] = request
        self.prefilling.append(request)
        if requests.first_scheduled_ns[row] < 0:
            requests.first_scheduled_ns[row] = now_ns
            requests.cached_tokens[row] = found
            return
        if request.remote:
            requests.decode_admitted_ns[row] = now_ns
            request.remote = LOCAL
            return
        self.log.readmitted_ns.append(now_ns)
        self.log.readmitted_request.append(row)
        if request.lost_tokens > found + recalled:
            requests.recomputed_tokens[row] += request.lost_tokens - found - recalled
        request.lost_tokens = 0

    # Time -----------------------------------------------------------------------------------------------------

    def _shape(self) -> StepShape:
        """Return the shape of what was scheduled; its tokens count as computed from here on."""
        cohort = self.cohort
        chunks = self.chunks
        prefills: tuple[tuple[int, int], ...] = ()
        if chunks:
            prefills = tuple([(tokens, request.computed_tokens) for request, tokens in chunks])
            for request, tokens in chunks:
                request.computed_tokens += tokens
        shape = StepShape(cohort.size, cohort.kv_tokens, prefills) if self.decoding else StepShape(0, 0, prefills)
        if self._needs_more:
            self._complete_shape(shape)
        return shape

    def _complete_shape(self, shape: StepShape) -> None:
        """Add what the step model needs beyond counts and sums."""
        if self._keeps_extremes and self.decoding:
            shape.decode_kv_max, shape.decode_kv_min = self.cohort.extremes()
        if self._needs_draw:
            shape.draw = (self.number << DRAW_BITS) + self.steps_ended
        if self._needs_prompts and self.decoding:
            left_out = self.paused
            decoding = [r for r in self.running_order() if not r.prefilling and r not in left_out]
            shape.decode_prompts = tuple([r.prompt_tokens for r in decoding])

    def _time_step(self, now_ns: int, horizon_ns: int) -> None:
        self.planned_shape = shape = self._shape()
        if self.ready_ns > now_ns:
            now_ns = self.ready_ns
        if self.chunks or not self._skipping or self.paused or (steps := run_steps(self)) == 1:
            self.ends_ns = (now_ns + self.step_model.duration_ns(shape),)
            self.planned_steps = 1
            self.may_notice = False
            if not self._skipping:
                self.planned_blocks = (self.cache.num_blocks - self.cache.free_blocks, self.cache.cached_blocks)
            return
        durations = self.step_model.decode_run_ns(shape, steps, horizon_ns - now_ns)
        self.ends_ns = list(accumulate(durations, initial=now_ns))[1:]
        self.planned_steps = len(self.ends_ns)
        self.may_notice = self.planned_steps > 1 and not self._deaf

    # Completion -----------------------------------------------------------------------------------------------

    def complete(self, now_ns: int) -> list[Request]:
        """End the present step or run at ``now_ns``; return the requests that finished, in running order."""
        steps = len(self.ends_ns)
        if steps == 0:
            return []
        log_steps(self, steps)
        if self.tiers is not None:
            completed = [(request, request.computed_tokens) for request, _ in self.chunks]
            self.tiers.end_steps(self, self.ends_ns, self.tiers.recalls, completed)
        return self._end_step(steps, now_ns)

    def _end_step(self, steps: int, now_ns: int) -> list[Request]:
        """Let the tokens of ``steps`` steps appear; return who finished."""
        self.steps_ended += steps
        finished: list[Request] = []
        if self.decoding:
            self.batch_started = True
            self.preemptions_since_token = 0
            finished = self.cohort.advance(steps)
            if finished:
                log_spans(self, finished)
                block_size = self.block_size
                for request in finished:
                    request.computed_tokens = context_tokens = request.prompt_tokens + request.output_tokens - 1
                    request.num_blocks = -(-context_tokens // block_size)
            if self.planned_steps > 1:
                adapt_run_limit(self, steps)
        if self.paused:
            for request in self.paused:
                self.cohort.join(request, request.computed_tokens)
            self.paused = []
        for request, _ in self.chunks:
            if request.computed_tokens == request.known_tokens:
                self._end_prefill(request, now_ns, finished)
        if finished:
            self._finish(finished, now_ns)
        return finished

    def _end_prefill(self, request: Request, now_ns: int, finished: list[Request]) -> None:
        requests, row = self.requests, request.row
        self.preemptions_since_token = 0
        self.prefilling.remove(request)
        request.prefilling = False
        if self.hands_over and not (self.hands_over == "prefill" and request.output_tokens == 1):
            hand_over(self, request, now_ns)
            return
        if requests.first_token_ns[row] < 0:
            requests.first_token_ns[row] = now_ns
        else:
            self.log.resumed_request.append(row)
            self.log.resumed_ns.append(now_ns)
        request.generated_tokens = request.known_tokens - request.prompt_tokens + 1
        if request.generated_tokens == request.output_tokens:
            finished.append(request)
        else:
            self.cohort.join(request, request.computed_tokens)

    def _finish(self, finished: list[Request], now_ns: int) -> None:
        if len(finished) > 1:
            finished.sort(key=_admission)
        requests = self.requests
        for request in finished:
            row = request.row
            del self.running[row]
            self.cache.release(request, request.computed_tokens)
            requests.finish_ns[row] = now_ns
            requests.state[row] = 1
        if not self.running:
            self.batch_started = False

    # Records --------------------------------------------------------------------------------------------------

    def _fall_idle(self, now_ns: int) -> None:
        self.busy = False
        self.may_notice = True
        self.next_event_ns = -1
        self.ends_ns = ()
        self.idle_since_ns = now_ns
        self.log.idle_ns.append(now_ns)
        self.log.idle_cached_blocks.append(self.cache.cached_blocks)
        self.log.idle_used_blocks.append(self.cache.num_blocks - self.cache.free_blocks)

    def close(self) -> None:
        """Complete the log: the last steps, and what unfinished requests have got (if the user cut the run short)."""
        for request in self.running.values():
            if not request.prefilling and request not in self.paused:
                log_spans(self, [request])
        write_rows(self)


def _admission(request: Request) -> int:
    return request.admission
