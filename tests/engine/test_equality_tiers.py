"""The fast engine equals the stepwise engine, to the nanosecond, on random scenarios with KV tiers."""

from __future__ import annotations

import pytest
from equality_helpers import compare, run_fast
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.testing.random_tiers import random_tiered_scenario

SCENARIOS = 240
PER_TEST = 40


@pytest.mark.parametrize("first", range(0, SCENARIOS, PER_TEST))
def test_fast_engine_equals_stepwise_engine(first: int) -> None:
    """Every token's time, every recall, every tier's content over time and every step's KV use are equal."""
    for seed in range(first, first + PER_TEST):
        compare(random_tiered_scenario(seed), str(seed), may_get_stuck=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(min_value=SCENARIOS, max_value=2**63))
def test_fast_engine_equals_stepwise_engine_on_new_scenarios(seed: int) -> None:
    """The same, on scenarios that nobody has tried before."""
    compare(random_tiered_scenario(seed), str(seed), may_get_stuck=True)


def test_random_tiered_scenarios_reach_what_they_are_for() -> None:
    """Among the scenarios are recalls from all tiers, of shared ones too, evictions, and recalls after preemptions."""
    names = (
        "recalled",
        "deeper",
        "evicted",
        "shared",
        "from another",
        "again",
        "waited",
        "grouped",
        "passed on",
        "apart",
    )
    reached = dict.fromkeys(names, 0)
    for seed in range(SCENARIOS):
        scenario = random_tiered_scenario(seed)
        outcome = run_fast(scenario)
        if isinstance(outcome, str):
            continue
        for spec, log in zip(scenario.instances, outcome.logs, strict=True):
            reached["recalled"] += len(log.recall_ns) > 0
            reached["deeper"] += any(tier > 0 for tier in log.recall_tier)
            reached["again"] += bool(set(log.recall_request) & set(log.preempted_request))
            waits = (end - start for start, end in zip(log.recall_ns, log.recalled_ns, strict=True))
            reached["waited"] += any(wait > 0 for wait in waits)
            reached["apart"] += spec.tiers is not None and spec.tiers.load == "async" and len(log.recall_ns) > 0
            reached["grouped"] += spec.plan is not None and len(log.recall_ns) > 0
        for record in outcome.tiers:
            reached["evicted"] += bool(record.log) and record.log.evicted_chunks[-1] > 0
            reached["shared"] += len(record.instances) > 1
            hits = bool(record.log) and record.log.hit_chunks[-1] > 0
            reached["from another"] += hits and len(record.instances) > 1
        backs = (spec.tiers and spec.tiers.write == "back" for spec in scenario.instances)
        later = [record for record in outcome.tiers if record.tier.name != "tier 0"]
        reached["passed on"] += any(backs) and any(len(record.log) and record.log.stored_chunks[-1] for record in later)
    assert min(reached.values()) >= 8, reached
