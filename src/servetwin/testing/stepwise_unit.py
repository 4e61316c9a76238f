"""What steps by itself in the stepwise engine: the ranks of a lockstep group, or a plain instance as a group of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servetwin.core.errors import InputError
from servetwin.step.base import StepShape
from servetwin.testing.stepwise_instance import StepwiseBatch, StepwiseInstance
from servetwin.testing.stepwise_kv_cache import StepwiseRequest


@dataclass(slots=True, eq=False)
class StepwiseWave:
    """One batch on each rank, on its way through the stages."""

    batches: list[StepwiseBatch]
    start_ns: int
    end_ns: int
    shapes: list[StepShape | None]


class StepwiseUnit:
    """Ranks that step together, with up to as many waves in flight as their plan has stages."""

    def __init__(self, ranks: Sequence[StepwiseInstance], first_poll_ns: int) -> None:
        self.ranks = ranks
        self.plan = ranks[0].spec.plan
        if hasattr(self.plan, "member_times_ns"):
            raise InputError(
                f"{type(self.plan).__name__} ends its ranks' batches one by one, which only the fast engine can",
                where=ranks[0].spec.name,
            )
        self.step_model = ranks[0].spec.step_model
        self.num_stages = 1 if self.plan is None else self.plan.num_stages
        self.stage_free_ns = [0] * self.num_stages
        self.waves: list[StepwiseWave] = []
        self.idle_since_ns = first_poll_ns
        self.event_times: set[int] = set()
        """When it will be looked at."""

    def arrival_event_ns(self, rank: StepwiseInstance, now_ns: int, units: Sequence[StepwiseUnit]) -> int | None:
        """Return when to look at the unit because of an arrival; None if it will be looked at anyway, or is full."""
        if not self.waves:
            return None if self.event_times else self._wake_ns(rank, now_ns, units)
        free_slot = len(self.waves) < self.num_stages
        return now_ns if free_slot and now_ns not in self.event_times else None

    def _wake_ns(self, rank: StepwiseInstance, now_ns: int, units: Sequence[StepwiseUnit]) -> int:
        """Return when an idle unit notices an arrival at ``now_ns``.

        While another one computes, all are looked at; else at multiples of the poll after the last one fell idle.
        """
        if now_ns < rank.settings.ready_ns:
            return rank.settings.ready_ns
        poll = rank.settings.idle_poll_ns
        if not poll or any(other.waves for other in units):
            return now_ns
        idle_since_ns = max(other.idle_since_ns for other in units)
        return idle_since_ns + max(0, -(-(now_ns - idle_since_ns) // poll)) * poll

    def end_wave(self, now_ns: int) -> list[StepwiseRequest]:
        """End the wave that ends now, if one does, rank by rank; return the requests that finished."""
        finished: list[StepwiseRequest] = []
        if self.waves and self.waves[0].end_ns == now_ns:
            wave = self.waves.pop(0)
            for rank, batch in zip(self.ranks, wave.batches, strict=True):
                finished += rank.complete(batch, now_ns)
        return finished

    def end_wave_at(self, end_ns: int) -> None:
        """Let the only wave in flight end at another time than was thought."""
        (wave,) = self.waves
        wave.end_ns = self.stage_free_ns[0] = end_ns
        for rank in self.ranks:
            rank.steps[-1] = (rank.steps[-1][0], end_ns, *rank.steps[-1][2:])

    def start_waves(self, now_ns: int) -> list[int]:
        """Fill the free slots as far as there is something to do; return when the new waves end."""
        ends = []
        while len(self.waves) < self.num_stages and self._schedule(now_ns):
            ends.append(self._start_wave(now_ns))
        if not self.waves:
            self.idle_since_ns = now_ns
            for rank in self.ranks:
                rank.fall_idle(now_ns)
        for rank in self.ranks:
            rank.note(now_ns)
        return ends

    def _schedule(self, now_ns: int) -> bool:
        """Let every rank schedule a batch; return whether any has one."""
        have_one = [self._schedule_rank(rank, now_ns) for rank in self.ranks]
        return any(have_one)

    def _schedule_rank(self, rank: StepwiseInstance, now_ns: int) -> bool:
        """Let a rank schedule a batch; with nothing in flight it tries again where it only preempted somebody."""
        known_ns = self._known_ns(now_ns)
        rank.begin_step(now_ns)
        while not rank.schedule(now_ns, known_ns):
            if self.waves or (not rank.preempted and known_ns == now_ns):
                return False
            if not rank.preempted:
                known_ns = now_ns
        return True

    def _known_ns(self, now_ns: int) -> int:
        """Return up to when arrivals are known: with asynchronous scheduling, up to the start of the step before."""
        steps = self.ranks[0].steps
        ahead = self.ranks[0].settings.async_scheduling and bool(steps) and steps[-1][1] == now_ns
        return steps[-1][0] if ahead else now_ns

    def _start_wave(self, now_ns: int) -> int:
        batches = [rank.start() for rank in self.ranks]
        shapes = [self._shape(rank, batch) for rank, batch in zip(self.ranks, batches, strict=True)]
        arrival_ns = end_ns = max([now_ns] + [rank.ready_ns for rank in self.ranks])
        for stage, (busy_ns, send_ns) in enumerate(self._stage_times_ns(shapes)):
            end_ns = max(arrival_ns, self.stage_free_ns[stage]) + busy_ns
            self.stage_free_ns[stage] = end_ns
            arrival_ns = end_ns + send_ns
        for rank, batch in zip(self.ranks, batches, strict=True):
            rank.write_step(now_ns, end_ns, batch)
        self.waves.append(StepwiseWave(batches, now_ns, end_ns, shapes))
        return end_ns

    def _shape(self, rank: StepwiseInstance, batch: StepwiseBatch) -> StepShape | None:
        if not batch.entries:
            return None
        shape = batch.shape(draw=(rank.number << 40) + len(rank.steps))
        timing = self.plan or self.step_model
        if timing is not None and "draw" not in timing.needs:
            shape.draw = 0
        return shape

    def _stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[tuple[int, int]]:
        if self.plan is not None:
            return self.plan.stage_times_ns(shapes)
        (shape,) = shapes
        assert shape is not None
        assert self.step_model is not None
        return [(self.step_model.duration_ns(shape), 0)]
