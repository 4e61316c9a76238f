"""LLMServingSim's groups: when members join, what they join with, and that they always end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from engine_helpers import requests
from group_helpers import group, run_group
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.cluster.base import SimulationOutcome, routers
from servetwin.cluster.simulation import simulate
from servetwin.core.errors import InputError, InvariantError
from servetwin.engine.base import COMPLETED
from servetwin.step.base import StepShape
from servetwin.step.plans.base import MemberTimes, StageTime
from servetwin.testing.equality import token_times
from servetwin.testing.group_plans import SlowestRankPlan
from servetwin.testing.random_groups import AvoidingRouter
from servetwin.testing.stepwise import simulate_stepwise
from servetwin.workload.base import Workload


class MemberPlan:
    """Members of constant speed: ``busy_ns[stage][member]``, and less by ``idle_ns`` with an idle batch."""

    needs: frozenset[str] = frozenset()

    def __init__(
        self,
        busy_ns: Sequence[Sequence[int]],
        *,
        idle_ns: int = 0,
        per_token_ns: int = 0,
        late: bool = True,
        lead_ns: int | None = None,
    ) -> None:
        self.num_stages, self.num_ranks = len(busy_ns), len(busy_ns[0])
        self.notices: list[str] = []
        self.late_members_join_idle = late
        self.lead_ns = lead_ns
        self._busy_ns, self._idle_ns, self._per_token_ns = busy_ns, idle_ns, per_token_ns

    def member_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[MemberTimes]:
        """Return the members' times by stage."""
        more = [shape.num_tokens * self._per_token_ns if shape else -self._idle_ns for shape in shapes]
        return [MemberTimes([a + b for a, b in zip(stage, more, strict=True)], 0) for stage in self._busy_ns]

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """Return the slowest member's."""
        return [StageTime(max(times.busy_ns), times.send_ns) for times in self.member_times_ns(shapes)]


def run(plan: MemberPlan, workload: Workload, avoided: frozenset[int] = frozenset(), **more: int | bool) -> list[int]:
    """Return the token times of each request, round robin over the members that are not avoided."""
    return token_times(_outcome(plan, workload, avoided, **more))  # type: ignore[return-value]


def _outcome(
    plan: MemberPlan, workload: Workload, avoided: frozenset[int] = frozenset(), **more: int | bool
) -> SimulationOutcome:
    router = AvoidingRouter(routers.get("round_robin")(seed=1), avoided)
    return simulate(workload, group(plan, **more), router, check_invariants=True)


@pytest.mark.parametrize(("late", "slow"), [(True, [12, 60, 72, 84]), (False, [12, 24, 36, 48])])
def test_who_ends_later_joins_idle_or_with_what_it_has(late: bool, slow: list[int]) -> None:
    """The slower of two members decodes only when the other is done; or beside it, with the switch off."""
    plan = MemberPlan([[10, 12]], late=late)
    assert run(plan, requests((0, 1, 4), (0, 1, 4))) == [[10, 22, 34, 46], slow]


def test_members_of_equal_speed_stay_in_phase() -> None:
    """Batches that end at the same time are followed by batches in the same wave."""
    plan = MemberPlan([[12, 12]], idle_ns=2)
    assert run(plan, requests((0, 1, 3), (0, 1, 3))) == [[12, 24, 36]] * 2


def test_members_with_faster_idle_batches_run_by_turns() -> None:
    """Out of phase once, each member ends its idle batch first and opens the next round, which the other joins idle."""
    plan = MemberPlan([[12, 12]], idle_ns=2)
    assert run(plan, requests((0, 1, 4), (15, 1, 3))) == [[12, 24, 48, 72], [36, 60, 84]]


def test_no_member_ends_earlier_than_its_lead() -> None:
    """Where members meet, the faster one ends a link's latency before the slower one, not earlier."""
    outcome = _outcome(MemberPlan([[10, 50]], lead_ns=15), requests((0, 1, 1), (0, 1, 1)))
    assert token_times(outcome) == [[35], [50]]
    with pytest.raises(InvariantError, match="at least 1 ns"):
        _outcome(MemberPlan([[10, 0]]), requests((0, 1, 1)))


@pytest.mark.parametrize(("late", "expected"), [(True, [[20, 40, 60], [30, 50]]), (False, [[20, 40, 60], [40, 60]])])
def test_in_a_pipeline_a_free_first_stage_joins_idle(late: bool, expected: list[list[int]]) -> None:
    """A request alone on its member does not wait for the other's, whose wave is in the second stage; or it does."""
    plan = MemberPlan([[10, 10], [10, 10]], late=late)
    assert run(plan, requests((0, 1, 3), (5, 1, 2))) == expected


def test_a_single_member_is_a_plain_group() -> None:
    """With one member of one stage nobody waits for anybody: times are those of a plain group."""
    workload = requests((0, 9, 5), (3, 4, 7), (60, 2, 2), (500, 5, 5))
    plain = run_group(workload, group(SlowestRankPlan(1, [10], [3], [0]), max_num_batched_tokens=4))
    member = run(MemberPlan([[10]], per_token_ns=3), workload, max_num_batched_tokens=4)
    assert member == token_times(plain)


def test_the_stepwise_engine_refuses_such_plans() -> None:
    """It ends all ranks together, and says so instead of being wrong."""
    with pytest.raises(InputError, match="one by one"):
        simulate_stepwise(requests((0, 1, 1)), group(MemberPlan([[10, 12]])), routers.get("round_robin")(seed=1))


@settings(max_examples=80)
@given(st.data())
def test_groups_drain_however_uneven_they_are(data: st.DataObject) -> None:
    """All requests complete, waves start on all members at once, and no stage of a member is in two batches at once."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    members, stages = (data.draw(st.integers(1, 4)) for _ in range(2))
    late, lead_ns = data.draw(st.booleans()), data.draw(st.sampled_from([None, 0, 5, 40]))
    busy_ns = rng.integers(3, 30, size=(stages, members)).tolist()
    plan = MemberPlan(busy_ns, idle_ns=2, per_token_ns=int(rng.integers(0, 4)), late=late, lead_ns=lead_ns)
    rows = [(int(rng.integers(0, 200)), int(rng.integers(1, 12)), int(rng.integers(1, 9))) for _ in range(12)]
    avoided = frozenset(range(data.draw(st.integers(0, members - 1))))
    outcome = _outcome(
        plan,
        requests(*sorted(rows)),
        avoided,
        num_blocks=data.draw(st.sampled_from([5, 8, 100])),
        max_model_len=20,
        max_num_seqs=data.draw(st.integers(1, 4)),
        max_num_batched_tokens=data.draw(st.sampled_from([4, 16])),
        overlap_chunks=data.draw(st.booleans()),
        idle_poll_ns=data.draw(st.sampled_from([0, 50])),
    )
    assert list(outcome.requests.state) == [COMPLETED] * 12
    first, *others = outcome.logs
    for log in others:
        assert log.start_ns == first.start_ns
    for number, log in enumerate(outcome.logs):
        assert all(b - a >= busy_ns[0][number] - 2 for a, b in pairwise(log.start_ns))
        assert all(b - a >= busy_ns[-1][number] - 2 for a, b in pairwise(log.end_ns))
        in_time = zip(log.end_ns, log.start_ns[stages:], strict=False)
        assert all(end <= start for end, start in in_time)
    if lead_ns is not None:
        for ends in zip(*(log.end_ns for log in outcome.logs), strict=True):
            assert max(ends) - min(ends) <= lead_ns
