"""The fast engine equals the stepwise engine, to the nanosecond, on random scenarios with pipelines and groups."""

from __future__ import annotations

import pytest
from equality_helpers import compare
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.cluster.simulation import simulate
from servetwin.testing.random_groups import random_group_scenario

SCENARIOS = 200
PER_TEST = 50


@pytest.mark.parametrize("first", range(0, SCENARIOS, PER_TEST))
def test_fast_engine_equals_stepwise_engine(first: int) -> None:
    """Every token's time, every count and every rank's rows are equal, with batches in flight and idle ranks."""
    for seed in range(first, first + PER_TEST):
        compare(random_group_scenario(seed), str(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(min_value=SCENARIOS, max_value=2**63))
def test_fast_engine_equals_stepwise_engine_on_new_scenarios(seed: int) -> None:
    """The same, on scenarios that nobody has tried before."""
    compare(random_group_scenario(seed), str(seed))


def test_random_group_scenarios_reach_what_they_are_for() -> None:
    """Among the scenarios are preemptions, hits, dummy batches, idle ranks, and several batches in flight."""
    reached = dict.fromkeys(("preempted", "cached", "dummy", "idle rank", "together", "plain beside", "both"), 0)
    for seed in range(150):
        scenario = random_group_scenario(seed)
        fast = simulate(scenario.workload, scenario.instances, scenario.make_router())
        grouped = [spec.plan is not None for spec in scenario.instances]
        reached["preempted"] += any(fast.requests.preemptions)
        reached["cached"] += any(tokens > 0 for tokens in fast.requests.cached_tokens)
        reached["plain beside"] += not all(grouped)
        for log, is_grouped in zip(fast.logs, grouped, strict=True):
            if not is_grouped:
                continue
            together = any(b < a for a, b in zip(log.end_ns, log.start_ns[1:], strict=False))
            reached["together"] += together
            reached["dummy"] += any(tokens == 0 for tokens in log.tokens) and any(log.tokens)
            reached["idle rank"] += len(log.tokens) > 0 and not any(log.tokens)
            reached["both"] += together and len(log.preempted_ns) > 0
    assert min(reached.values()) >= 10, reached
