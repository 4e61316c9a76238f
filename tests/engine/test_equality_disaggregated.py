"""The fast engine equals the stepwise engine, to the nanosecond, where prefill and decode are apart."""

from __future__ import annotations

import pytest
from equality_helpers import compare, run_stepwise
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.testing.random_disaggregation import random_disaggregated_scenario

SCENARIOS = 160
PER_TEST = 40


@pytest.mark.parametrize("first", range(0, SCENARIOS, PER_TEST))
def test_fast_engine_equals_stepwise_engine(first: int) -> None:
    """Every token's time, every hand-over, transfer and landing, every count and every rank's rows are equal."""
    for seed in range(first, first + PER_TEST):
        compare(random_disaggregated_scenario(seed), str(seed), may_get_stuck=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=SCENARIOS, max_value=2**63))
def test_fast_engine_equals_stepwise_engine_on_new_scenarios(seed: int) -> None:
    """The same, on scenarios that nobody has tried before."""
    compare(random_disaggregated_scenario(seed), str(seed), may_get_stuck=True)


def test_random_disaggregated_scenarios_reach_what_they_are_for() -> None:
    """Among the scenarios are held prompts, waits for blocks, preemptions after landing, rejections on both sides."""
    names = (
        "landed",
        "waited for blocks",
        "waited for a seat",
        "preempted later",
        "rejected later",
        "grouped",
        "local",
    )
    reached = dict.fromkeys((*names, "stuck", "caching later"), 0)
    for seed in range(SCENARIOS):
        scenario = random_disaggregated_scenario(seed)
        how = scenario.make_disaggregation()
        assert how is not None
        slow = run_stepwise(scenario)
        if isinstance(slow, str):
            reached["stuck"] += 1
            continue
        for request in slow.requests:
            gone = request.prefill_instance >= 0
            reached["landed"] += request.landed_ns >= 0
            reached["waited for blocks"] += request.transfer_ns > request.handed_over_ns + how.handoff_ns
            reached["waited for a seat"] += request.decode_admitted_ns > request.landed_ns
            reached["preempted later"] += gone and request.preemptions > 0 and request.state == "completed"
            reached["rejected later"] += gone and request.state == "rejected"
            reached["grouped"] += gone and scenario.instances[request.instance].plan is not None
            reached["local"] += not gone and scenario.instances[request.instance].role == "decode"
            reached["caching later"] += gone and scenario.instances[request.instance].settings.enable_prefix_caching
    assert min(reached.values()) >= 5, reached
