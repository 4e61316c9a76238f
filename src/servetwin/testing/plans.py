"""Conformance of execution plans: what built-in and third-party plans must have in common. Needs pytest, Hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servetwin.step.base import StepShape
from servetwin.step.plans.base import ExecutionPlan
from servetwin.testing.step_models import step_shapes

_inherited = settings(suppress_health_check=[HealthCheck.differing_executors])


def waves(num_ranks: int) -> st.SearchStrategy[list[StepShape | None]]:
    """Return a strategy of what the ranks of a group compute, at least one of them something."""
    return st.lists(st.one_of(st.none(), step_shapes()), min_size=num_ranks, max_size=num_ranks).filter(any)


class ExecutionPlanConformance:
    """Inherit from this, give ``make``, and pytest runs the tests."""

    def make(self) -> ExecutionPlan:
        """Return the plan under test."""
        raise NotImplementedError

    @_inherited
    @given(data=st.data())
    def test_each_stage_takes_whole_positive_repeatable_time(self, data: st.DataObject) -> None:
        """There is one time per stage: whole, at least 1 ns, the way on at least 0, the same for the same batch."""
        plan = self.make()
        shapes = data.draw(waves(plan.num_ranks))
        times = plan.stage_times_ns(shapes)
        assert len(times) == plan.num_stages
        for busy_ns, send_ns in times:
            assert type(busy_ns) is int
            assert type(send_ns) is int
            assert busy_ns >= 1
            assert send_ns >= 0
        assert list(plan.stage_times_ns(shapes)) == list(times)

    @_inherited
    @given(data=st.data())
    def test_ranks_are_alike(self, data: st.DataObject) -> None:
        """It does not matter which rank has which batch."""
        plan = self.make()
        shapes: Sequence[StepShape | None] = data.draw(waves(plan.num_ranks))
        times = plan.stage_times_ns(shapes)
        assert list(plan.stage_times_ns(data.draw(st.permutations(shapes)))) == list(times)

    def test_it_says_what_it_needs(self) -> None:
        """Needs are known ones, notices are texts."""
        plan = self.make()
        assert plan.needs <= {"kv_extremes", "draw"}
        assert all(isinstance(notice, str) for notice in plan.notices)
