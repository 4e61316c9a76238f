"""One rank of a group: it schedules batches as an instance does; the group says how long they take.

In a pipeline several batches are in flight. Each that decodes has a cohort of its own, in a *lane*; the requests that
may be scheduled next have one, too. When a batch has ended its cohort joins those that may be scheduled.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from servetwin.engine.base import EngineSettings, Ordering, RequestLog, Scheduler
from servetwin.engine.cohort import DecodeCohort
from servetwin.engine.instance import Instance
from servetwin.engine.preemption import leave_cohort
from servetwin.engine.records import ROWS_AT_ONCE, log_spans, write_rows
from servetwin.engine.request import Request
from servetwin.engine.tiers import Completed, InstanceTiers
from servetwin.memory.tiers import Recall
from servetwin.step.base import StepModelBase, StepShape
from servetwin.step.plans.base import ExecutionPlan


class _TimedByGroup(StepModelBase):
    """Stands where an instance has its step model."""

    def __init__(self, needs: frozenset[str]) -> None:
        super().__init__()
        self.needs = needs


@dataclass(slots=True)
class _Batch:
    """What was scheduled and has not ended. ``cohort`` is None when nobody decodes in it."""

    start_ns: int
    end_ns: int
    cohort: DecodeCohort | None
    chunks: list[tuple[Request, int]]
    last_chunks: list[tuple[Request, int]]
    decoded: int
    tokens: int
    kv_used_blocks: int
    kv_cached_blocks: int
    recalls: Sequence[Recall]
    completed: Sequence[Completed]


class Rank(Instance):
    """One data-parallel rank of a lockstep group, or the only one of a pipeline.

    Parameters
    ----------
    plan
        The group's plan.
    requests, number, distinct, distinct_answers, tiers
        As of an instance.
    """

    __slots__ = ("_batches", "_cohorts", "_steps_planned")

    def __init__(
        self,
        settings: EngineSettings,
        scheduler: Scheduler,
        ordering: Ordering,
        plan: ExecutionPlan,
        requests: RequestLog,
        *,
        number: int = 0,
        distinct: bool = True,
        distinct_answers: bool = False,
        tiers: InstanceTiers | None = None,
    ) -> None:
        super().__init__(
            settings,
            scheduler,
            ordering,
            _TimedByGroup(plan.needs),
            requests,
            number=number,
            distinct=distinct,
            distinct_answers=distinct_answers,
            tiers=tiers,
        )
        self.has_lanes = plan.num_stages > 1
        lanes = plan.num_stages + 1 if self.has_lanes else 1
        self._cohorts = [
            DecodeCohort(settings.block_size, extremes=self._keeps_extremes, members=self._knows_members, lane=lane)
            for lane in range(lanes)
        ]
        self.cohort = self._cohorts[0]
        self._batches: deque[_Batch] = deque()
        self._steps_planned = 0

    # Scheduling -----------------------------------------------------------------------------------------------

    def schedule(self, now_ns: int) -> StepShape | None:
        """Schedule a batch of those who are in none; None when there is nobody to schedule."""
        self._known_ns = self.start_ns = now_ns
        if self.tiers is not None:
            self.ready_ns = 0
            self.tiers.begin_step(now_ns)
        while True:
            self._schedule(now_ns)
            if self.decoding or self.chunks:
                return self._shape()
            if not self.preempted or self._batches:
                return None

    def _shape(self) -> StepShape:
        shape = super()._shape()
        if self._needs_draw:
            shape.draw += self._steps_planned - self.steps_ended
        return shape

    def launch(self, end_ns: int) -> None:
        """Let what was scheduled be in flight until ``end_ns``; a rank without a batch runs a dummy one."""
        cache, cohort = self.cache, self.cohort if self.decoding else None
        recalls: Sequence[Recall] = ()
        if self.tiers is not None:
            recalls, self.tiers.recalls = self.tiers.recalls, []
        self._batches.append(
            _Batch(
                start_ns=self.start_ns,
                end_ns=end_ns,
                cohort=cohort,
                chunks=self.chunks,
                last_chunks=[c for c in self.chunks if c[0].computed_tokens == c[0].known_tokens],
                decoded=cohort.size if cohort else 0,
                tokens=sum(tokens for _, tokens in self.chunks) + (cohort.size if cohort else 0),
                kv_used_blocks=cache.num_blocks - cache.free_blocks,
                kv_cached_blocks=cache.cached_blocks,
                recalls=recalls,
                completed=[(request, request.computed_tokens) for request, _ in self.chunks],
            )
        )
        self._steps_planned += 1
        for request, _ in self.chunks:
            request.in_flight += 1
        if cohort and self.has_lanes:
            self.cohort = self._free_cohort()
            for request in self.paused:
                self.cohort.join(request, request.computed_tokens)
            self.paused = []
        self.decoding = False
        self.chunks = []

    def move_newest(self, start_ns: int, end_ns: int) -> None:
        """Let the newest batch in flight start and end at these times."""
        self._batches[-1].start_ns, self._batches[-1].end_ns = start_ns, end_ns

    def _free_cohort(self) -> DecodeCohort:
        """Return a lane's cohort that no batch in flight has; it is empty."""
        taken = [batch.cohort for batch in self._batches]
        return next(cohort for cohort in self._cohorts if cohort not in taken)

    def running_order(self) -> list[Request]:
        """Return who may be scheduled, in order: no decode of a batch in flight."""
        if not self.has_lanes:
            return super().running_order()
        lane = self.cohort.lane
        return [
            request
            for request in self.running.values()
            if (self.wanted_tokens(request) if request.prefilling else request.lane == lane)
        ]

    def wanted_tokens(self, request: Request) -> int:
        """Return how many tokens of its prompt a running request may compute in a step, were it alone."""
        if request.in_flight and not self.settings.overlap_chunks:
            return 0
        return super().wanted_tokens(request)

    # The end of a batch ---------------------------------------------------------------------------------------

    def complete_batch(self, now_ns: int) -> list[Request]:
        """End the oldest batch in flight; return who finished, in running order."""
        batch = self._batches.popleft()
        self._log(batch)
        for request, _ in batch.chunks:
            request.in_flight -= 1
        ready, scheduled = self.cohort, (self.decoding, self.chunks)
        self.decoding, self.chunks = batch.cohort is not None, batch.last_chunks
        if batch.cohort is not None:
            self.cohort = batch.cohort
        if self.tiers is not None:
            self.tiers.end_steps(self, (now_ns,), batch.recalls, batch.completed)
        finished = self._end_step(1, now_ns)
        self.decoding, self.chunks = scheduled
        if self.cohort is not ready:
            self._join_ready(ready)
        return finished

    def _log(self, batch: _Batch) -> None:
        self.step_rows.append(
            (
                batch.start_ns,
                batch.end_ns,
                batch.decoded,
                batch.tokens,
                batch.kv_used_blocks,
                batch.kv_cached_blocks,
            )
        )
        if self.has_lanes:
            self.log.lane.append(batch.cohort.lane if batch.cohort else 0)
        if len(self.step_rows) >= ROWS_AT_ONCE:
            write_rows(self)

    def _join_ready(self, ready: DecodeCohort) -> None:
        """Put the cohort of the batch that ended and that of those who may be scheduled together."""
        smaller, larger = sorted((ready, self.cohort), key=_size)
        self.cohort = smaller
        moved = sorted(smaller.members(), key=_admission)
        for request in moved:
            leave_cohort(self, request)
        self.cohort = larger
        for request in moved:
            larger.join(request, request.computed_tokens)

    def fall_idle(self, now_ns: int) -> None:
        """Note that the group has nothing to do."""
        self._fall_idle(now_ns)

    @property
    def cohorts(self) -> list[DecodeCohort]:
        """The cohorts of all lanes."""
        return self._cohorts

    @property
    def lanes_in_flight(self) -> list[int]:
        """The lane of each batch in flight in which somebody decodes."""
        return [batch.cohort.lane for batch in self._batches if batch.cohort is not None]

    def chunks_add_up(self) -> bool:
        """Return whether each prefilling request knows in how many batches it is, and nobody else is in one so."""
        counts = Counter(request.row for batch in self._batches for request, _ in batch.chunks)
        known = {request.row: request.in_flight for request in self.prefilling if request.in_flight}
        overlaps = self.settings.overlap_chunks or all(count == 1 for count in counts.values())
        return known == dict(counts) and overlaps

    def close(self) -> None:
        """Complete the log; batches in flight when the user cut the run short never happened."""
        for request in self.running.values():
            if not request.prefilling and request not in self.paused:
                self.cohort = self._cohorts[request.lane]
                log_spans(self, [request])
        write_rows(self)


def _admission(request: Request) -> int:
    return request.admission


def _size(cohort: DecodeCohort) -> int:
    return cohort.size
