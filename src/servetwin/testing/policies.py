"""Conformance of routers, schedulers and orderings, built in or third-party. Needs pytest and Hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servetwin.cluster.base import ClusterView, RequestView, Router
from servetwin.cluster.simulation import simulate
from servetwin.engine.base import Ordering, Scheduler, SchedulerView, StepPolicy
from servetwin.testing.equality import differences
from servetwin.testing.random_scenarios import RandomScenario, random_scenario
from servetwin.testing.stepwise import simulate_stepwise

SCENARIOS = 40

_inherited = settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)


def assert_engines_agree(scenario: RandomScenario) -> None:
    """Run a scenario in both engines, the fast one with and without skipping, and compare them to the nanosecond."""
    arguments = {"staleness_ns": scenario.staleness_ns, "front_end": scenario.front_end}
    slow = simulate_stepwise(scenario.workload, scenario.instances, scenario.make_router(), **arguments)  # type: ignore[arg-type]
    for skipping in (True, False):
        fast = simulate(
            scenario.workload,
            scenario.instances,
            scenario.make_router(),
            staleness_ns=scenario.staleness_ns,
            front_end=scenario.front_end,
            check_invariants=True,
            skipping=skipping,
        )
        assert differences(fast, slow) == []


def with_policies(
    scenario: RandomScenario,
    *,
    router: Callable[[], Router] | None = None,
    scheduler: Scheduler | None = None,
    ordering: Ordering | None = None,
) -> RandomScenario:
    """Return a scenario with some of its policies replaced.

    With another scheduler, requests that its budget cannot hold whole are too long for the model, as a scenario sees to
    it where prompts are not split.
    """
    instances = []
    for spec in scenario.instances:
        limits = spec.settings
        if scheduler is not None:
            limits = replace(limits, max_model_len=min(limits.max_model_len, limits.max_num_batched_tokens))
        changed = replace(spec, settings=limits, scheduler=scheduler or spec.scheduler)
        instances.append(replace(changed, ordering=ordering or spec.ordering))
    return replace(scenario, instances=instances, make_router=router or scenario.make_router)


@st.composite
def cluster_views(draw: st.DrawFn) -> ClusterView:
    """Draw what a router may see of one to eight instances."""
    n = draw(st.integers(1, 8))

    def column(low: int, high: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)), dtype=np.int64)

    waiting, running, blocks = column(0, 40), column(0, 40), column(1, 200)
    used = np.minimum(column(0, 200), blocks)
    return ClusterView(waiting, running, waiting + running, used, blocks, column(1, 64))


class RouterConformance:
    """Inherit from this, give ``make``, and pytest runs the tests."""

    def make(self, seed: int) -> Router:
        """Return a fresh router under test."""
        raise NotImplementedError

    @_inherited
    @given(views=st.lists(cluster_views(), min_size=1, max_size=6), seed=st.integers(0, 100), data=st.data())
    def test_it_chooses_candidates_repeats_itself_and_leaves_the_view_alone(
        self, views: list[ClusterView], seed: int, data: st.DataObject
    ) -> None:
        """Every choice is a candidate; equal seeds and histories give equal choices; the view is only read."""
        one, other = self.make(seed), self.make(seed)
        for row, view in enumerate(views):
            everyone = range(len(view.waiting))
            chosen_from = data.draw(st.lists(st.sampled_from(everyone), min_size=1, unique=True).map(sorted))
            candidates = np.array(chosen_from, dtype=np.int64)
            session = data.draw(st.sampled_from([None, "a", "b"]))
            request = RequestView(row, 10 * row, 30, session, None, 0, (1, 2, 3 + row % 2))
            before = [column.copy() for column in (view.waiting, view.running, view.outstanding, view.kv_used_blocks)]
            choice = one.choose(request, view, candidates)
            assert choice in candidates
            assert choice == other.choose(request, view, candidates)
            after = (view.waiting, view.running, view.outstanding, view.kv_used_blocks)
            assert all((a == b).all() for a, b in zip(before, after, strict=True))

    def test_both_engines_agree(self) -> None:
        """With this router the fast engine equals the stepwise one, so that it declares all that it reads."""
        for seed in range(SCENARIOS):
            assert_engines_agree(with_policies(random_scenario(seed), router=lambda seed=seed: self.make(seed)))  # type: ignore[misc]


class SchedulerConformance:
    """Inherit from this, give ``make``, and pytest runs the tests."""

    def make(self) -> Scheduler:
        """Return the scheduler under test."""
        raise NotImplementedError

    @_inherited
    @given(counts=st.tuples(*[st.integers(0, 50)] * 3), flags=st.tuples(st.booleans(), st.booleans()))
    def test_it_is_pure(self, counts: tuple[int, int, int], flags: tuple[bool, bool]) -> None:
        """Equal views get equal policies, from any instance of it."""
        policy = self.make().plan(SchedulerView(*counts, *flags))
        assert isinstance(policy, StepPolicy)
        assert policy == self.make().plan(SchedulerView(*counts, *flags))

    def test_everybody_is_served_and_both_engines_agree(self) -> None:
        """No request is left over (that would raise), and the fast engine equals the stepwise one."""
        for seed in range(SCENARIOS):
            assert_engines_agree(with_policies(random_scenario(seed), scheduler=self.make()))


class OrderingConformance:
    """Inherit from this, give ``make``, and pytest runs the tests."""

    def make(self) -> Ordering:
        """Return the ordering under test."""
        raise NotImplementedError

    @_inherited
    @given(facts=st.tuples(st.integers(0, 10**12), st.integers(-5, 5), st.integers(1, 10**6)))
    def test_keys_are_tuples_of_integers_and_repeatable(self, facts: tuple[int, int, int]) -> None:
        """A key says the same for the same request, in integers, so that any two can be compared."""
        key = self.make().key(*facts)
        assert all(type(part) is int for part in key)
        assert key == self.make().key(*facts)

    def test_both_engines_agree(self) -> None:
        """With this ordering the fast engine equals the stepwise one."""
        for seed in range(SCENARIOS):
            assert_engines_agree(with_policies(random_scenario(seed), ordering=self.make()))
