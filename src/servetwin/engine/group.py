"""A group: ranks in lockstep (or one alone), each batch of theirs going through the stages of a pipeline.

A *wave* is one batch of each rank. As many waves may be in flight as there are stages; a stage works on one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from servetwin.core.errors import InvariantError
from servetwin.engine.instance import FAR_NS
from servetwin.engine.rank import Rank
from servetwin.engine.request import Request
from servetwin.step.base import StepShape
from servetwin.step.plans.base import ExecutionPlan, StageTime


class Group:
    """The ranks of one execution plan; to the event loop it is what an instance is."""

    def __init__(self, ranks: Sequence[Rank], plan: ExecutionPlan, first_poll_ns: int = 0) -> None:
        self.ranks = ranks
        self.plan_of_stages = plan
        self.may_notice = True
        self.busy = False
        self.next_event_ns = -1
        self.idle_since_ns = first_poll_ns
        self._ends_ns: deque[int] = deque()
        self._stage_free_ns = [0] * plan.num_stages
        self._shapes: Sequence[StepShape | None] = ()
        """Of the newest wave."""

    @property
    def computing(self) -> bool:
        """Whether a wave is in flight."""
        return bool(self._ends_ns)

    def notice(self, now_ns: int, polls_from_ns: int, *, boundary_passed: bool = False) -> int | None:
        """Return the time of the group's next event if an arrival changes it, else None; see `Instance`."""
        self.may_notice = False
        if self.busy:
            self.next_event_ns = now_ns
        else:
            self.busy = True
            self.next_event_ns = self.ranks[0].wake_ns(now_ns, polls_from_ns)
        return self.next_event_ns

    def next_look_ns(self, now_ns: int) -> int:
        """Return when idle instances are looked at next while this group computes: at once."""
        return now_ns

    @property
    def step_under_way(self) -> tuple[int, int, Sequence[StepShape | None]]:
        """When the present wave began, when it ends, and what its ranks compute, where one is in flight at a time."""
        return self.ranks[0].start_ns, self._ends_ns[0], self._shapes

    def end_step_at(self, end_ns: int) -> None:
        """Let the wave in flight, which is the only one, end at another time than planned."""
        self._ends_ns[0] = self._stage_free_ns[0] = self.next_event_ns = end_ns
        for rank in self.ranks:
            rank.move_newest(rank.start_ns, end_ns)

    def cut(self, now_ns: int) -> int | None:
        """Return None: waves are planned one by one."""
        return None

    def plan(self, now_ns: int, horizon_ns: int = FAR_NS) -> int | None:
        """Schedule waves while there is room; return when the first in flight ends, or None when the group is idle."""
        stages = self.plan_of_stages.num_stages
        while len(self._ends_ns) < stages:
            shapes = self._shapes = [rank.schedule(now_ns) for rank in self.ranks]
            if not any(shapes):
                break
            ready_ns = max(now_ns, *(rank.ready_ns for rank in self.ranks))
            end_ns = self._pass_stages(self.plan_of_stages.stage_times_ns(shapes), ready_ns)
            for rank in self.ranks:
                rank.launch(end_ns)
            self._ends_ns.append(end_ns)
        if not self._ends_ns:
            self._fall_idle(now_ns)
            return None
        self.busy = True
        self.may_notice = len(self._ends_ns) < stages
        self.next_event_ns = self._ends_ns[0]
        return self.next_event_ns

    def _pass_stages(self, times: Sequence[StageTime], now_ns: int) -> int:
        """Send a wave through the stages; return when it leaves the last one."""
        free_ns = self._stage_free_ns
        at_ns = end_ns = now_ns
        for stage, (busy_ns, send_ns) in enumerate(times):
            if busy_ns < 1 or send_ns < 0:
                raise InvariantError(
                    f"execution plan {type(self.plan_of_stages).__name__} says that stage {stage} takes {busy_ns} ns "
                    f"and sending {send_ns} ns; whole nanoseconds are needed, at least 1 and 0"
                )
            end_ns = free_ns[stage] = max(at_ns, free_ns[stage]) + busy_ns
            at_ns = end_ns + send_ns
        return end_ns

    def complete(self, now_ns: int) -> list[Request]:
        """End the wave that is due, if one is; return the requests that finished, rank by rank."""
        if not self._ends_ns or self._ends_ns[0] > now_ns:
            return []
        self._ends_ns.popleft()
        return [request for rank in self.ranks for request in rank.complete_batch(now_ns)]

    def _fall_idle(self, now_ns: int) -> None:
        self.busy = False
        self.may_notice = True
        self.next_event_ns = -1
        self.idle_since_ns = now_ns
        for rank in self.ranks:
            rank.fall_idle(now_ns)
