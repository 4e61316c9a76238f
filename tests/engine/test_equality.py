"""The fast engine equals the stepwise engine, to the nanosecond, on random scenarios."""

from __future__ import annotations

import pytest
from equality_helpers import compare
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.cluster.simulation import simulate
from servetwin.testing.random_scenarios import random_scenario

SCENARIOS = 2400
PER_TEST = 100


@pytest.mark.parametrize("first", range(0, SCENARIOS, PER_TEST))
def test_fast_engine_equals_stepwise_engine(first: int) -> None:
    """Every token's time, every count and every step's KV use are equal under all policies."""
    for seed in range(first, first + PER_TEST):
        compare(random_scenario(seed), str(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=SCENARIOS, max_value=2**63))
def test_fast_engine_equals_stepwise_engine_on_new_scenarios(seed: int) -> None:
    """The same, on scenarios that nobody has tried before."""
    compare(random_scenario(seed), str(seed))


def test_random_scenarios_reach_what_they_are_for() -> None:
    """Among the scenarios are many preemptions, cache hits, recomputations, rejections, runs and long queues."""
    reached = dict.fromkeys(("preempted", "cached", "recomputed", "rejected", "skipped", "queued"), 0)
    for seed in range(300):
        scenario = random_scenario(seed)
        fast = simulate(scenario.workload, scenario.instances, scenario.make_router())
        log = fast.requests
        reached["preempted"] += sum(log.preemptions)
        reached["cached"] += sum(tokens > 0 for tokens in log.cached_tokens)
        reached["recomputed"] += sum(tokens > 0 for tokens in log.recomputed_tokens)
        reached["rejected"] += sum(state == 2 for state in log.state)
        reached["queued"] += sum(
            first > arrival for first, arrival in zip(log.first_scheduled_ns, log.arrival_ns, strict=True)
        )
        reached["skipped"] += sum(len(columns.end_ns) > 20 for columns in fast.logs)
    assert min(reached.values()) >= 40, reached
