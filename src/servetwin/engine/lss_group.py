"""LLMServingSim's data-parallel group (``--mode lss``): members end apart, and may join each other's waves idle.

A *round* has one batch of each member and leaves as a wave when the last has joined. Whoever is free and has requests
to run opens one; the others join when they are free. With ``late_members_join_idle`` one joins with an idle batch,
whatever requests it has,

- if its first stage is free while its requests are in another wave (with a pipeline), or
- if its last accelerator reports the end of its batch when a round is open: only its first one schedules.

Members then run by turns, each padding the other's waves. The stepwise engine does not know this group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from servetwin.core.errors import InvariantError
from servetwin.engine.group import Group
from servetwin.engine.instance import FAR_NS
from servetwin.engine.rank import Rank
from servetwin.engine.request import Request
from servetwin.step.base import StepShape
from servetwin.step.plans.base import MemberPlan


class LssGroup(Group):
    """The members of one group, each of which ends its part of a wave at its own time.

    Parameters
    ----------
    ranks
        The members.
    plan
        Times them one by one.
    first_poll_ns
        As of a group.
    """

    def __init__(self, ranks: Sequence[Rank], plan: MemberPlan, first_poll_ns: int = 0) -> None:
        super().__init__(ranks, plan, first_poll_ns)
        self.member_plan = plan
        self._waves_end_ns: list[deque[int]] = [deque() for _ in ranks]
        self._free_ns = [[0] * len(ranks) for _ in range(plan.num_stages)]
        """When each member's accelerators of each stage are free."""
        self._joined: dict[int, StepShape | None] = {}
        """What those members run that have joined the open round, by their number; None is idle."""
        self._just_ended: list[int] = []

    @property
    def computing(self) -> bool:
        """Whether a wave is in flight."""
        return any(self._waves_end_ns)

    def complete(self, now_ns: int) -> list[Request]:
        """End the batches that are due; return the requests that finished, member by member."""
        finished: list[Request] = []
        self._just_ended = []
        for number, ends_ns in enumerate(self._waves_end_ns):
            if ends_ns and ends_ns[0] <= now_ns:
                ends_ns.popleft()
                finished += self.ranks[number].complete_batch(now_ns)
                self._just_ended.append(number)
        return finished

    def plan(self, now_ns: int, horizon_ns: int = FAR_NS) -> int | None:
        """Let members join rounds; return when a batch or a first stage ends next, or None when the group is idle."""
        if self.member_plan.late_members_join_idle:
            self._join_late()
        while self._join_free(now_ns):
            self._launch(now_ns)
        ahead = [ends_ns[0] for ends_ns in self._waves_end_ns if ends_ns]
        if not ahead:
            self._fall_idle(now_ns)
            return None
        self.busy = True
        self.may_notice = any(self._may_join(number, now_ns) for number in range(len(self.ranks)))
        self.next_event_ns = min(ahead + [free_ns for free_ns in self._free_ns[0] if free_ns > now_ns])
        return self.next_event_ns

    # Rounds ---------------------------------------------------------------------------------------------------

    def _join_late(self) -> None:
        """Let members whose last batch in flight has just ended join an open round, idle."""
        for number in self._just_ended:
            if self._joined and number not in self._joined and not self._waves_end_ns[number]:
                self._join(number, None)

    def _join_free(self, now_ns: int) -> bool:
        """Let all join who are free; return whether the round is complete."""
        waits = not self.member_plan.late_members_join_idle
        for number, rank in enumerate(self.ranks):
            if self._may_join(number, now_ns):
                shape = rank.schedule(now_ns)
                if shape is not None:
                    self._join(number, shape)
        if self._joined:
            for number in range(len(self.ranks)):
                if self._may_join(number, now_ns) and not (waits and self._waves_end_ns[number]):
                    self._join(number, None)
        return len(self._joined) == len(self.ranks)

    def _may_join(self, number: int, now_ns: int) -> bool:
        in_flight = len(self._waves_end_ns[number])
        free = self._free_ns[0][number] <= now_ns and in_flight < self.member_plan.num_stages
        return free and number not in self._joined

    def _join(self, number: int, shape: StepShape | None) -> None:
        self._joined[number] = shape
        self.ranks[number].launch(FAR_NS)

    def _launch(self, now_ns: int) -> None:
        """Send the complete round through the stages."""
        shapes = [self._joined[number] for number in range(len(self.ranks))]
        self._joined = {}
        ends_ns = self._pass_members(shapes, now_ns)
        for rank, waves_end_ns, end_ns in zip(self.ranks, self._waves_end_ns, ends_ns, strict=True):
            rank.move_newest(now_ns, end_ns)
            waves_end_ns.append(end_ns)

    def _pass_members(self, shapes: Sequence[StepShape | None], now_ns: int) -> list[int]:
        """Return when each member leaves the last stage."""
        plan = self.member_plan
        at_ns = ends_ns = [max(now_ns, rank.ready_ns) for rank in self.ranks]
        for free_ns, (busy_ns, send_ns) in zip(self._free_ns, plan.member_times_ns(shapes), strict=True):
            if min(busy_ns) < 1 or send_ns < 0:
                raise InvariantError(f"execution plan {type(plan).__name__}: a stage takes at least 1 ns, a way 0")
            starts_ns = map(max, at_ns, free_ns)
            ends_ns = [start + busy for start, busy in zip(starts_ns, busy_ns, strict=True)]
            if plan.lead_ns is not None:
                earliest_ns = max(ends_ns) - plan.lead_ns
                ends_ns = [max(end_ns, earliest_ns) for end_ns in ends_ns]
            free_ns[:] = ends_ns
            at_ns = [end_ns + send_ns for end_ns in ends_ns]
        return ends_ns
