"""The fast engine equals the stepwise engine, to the nanosecond, where pipelines compute prompts for others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from equality_helpers import compare, run_fast
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.testing.random_chunk_pipelines import random_chunk_pipeline_scenario
from servetwin.testing.random_scenarios import RandomScenario

SCENARIOS = 80
PER_TEST = 40


@pytest.mark.parametrize("first", range(0, SCENARIOS, PER_TEST))
def test_fast_engine_equals_stepwise_engine(first: int) -> None:
    """Every token's time, every hand-over and every rank's rows are equal, with chunks in flight on all stages."""
    for seed in range(first, first + PER_TEST):
        compare(random_chunk_pipeline_scenario(seed), str(seed), may_get_stuck=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=SCENARIOS, max_value=2**63))
def test_fast_engine_equals_stepwise_engine_on_new_scenarios(seed: int) -> None:
    """The same, on scenarios that nobody has tried before."""
    compare(random_chunk_pipeline_scenario(seed), str(seed), may_get_stuck=True)


def test_random_chunk_pipelines_reach_what_they_are_for() -> None:
    """Among the scenarios are chunks in flight together, shrunken ones, preemptions there, and full decode sides."""
    reached = dict.fromkeys(("handed over", "together", "shrunken", "preempted", "waited for blocks"), 0)
    for seed in range(SCENARIOS):
        scenario = random_chunk_pipeline_scenario(seed)
        how = scenario.make_disaggregation()
        assert how is not None
        fast, fixed = run_fast(scenario), run_fast(_with_fixed_chunks(scenario))
        if isinstance(fast, str):
            continue
        requests = fast.requests
        reached["shrunken"] += isinstance(fixed, str) or requests.handed_over_ns != fixed.requests.handed_over_ns
        for handed_over_ns, transfer_ns in zip(requests.handed_over_ns, requests.transfer_ns, strict=True):
            reached["handed over"] += handed_over_ns >= 0
            reached["waited for blocks"] += transfer_ns > handed_over_ns + how.handoff_ns
        for spec, log in zip(fast.instances, fast.logs, strict=True):
            if spec.role == "prefill":
                reached["together"] += sum(b < a for a, b in zip(log.end_ns, log.start_ns[1:], strict=False))
                reached["preempted"] += len(log.preempted_ns)
    assert min(reached.values()) >= 20, reached


def _with_fixed_chunks(scenario: RandomScenario) -> RandomScenario:
    plain = [replace(spec, settings=replace(spec.settings, dynamic_chunking=None)) for spec in scenario.instances]
    return replace(scenario, instances=plain)
