"""The fast engine equals the stepwise engine, to the nanosecond, where prefill and decode are apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.cluster.base import SimulationOutcome
from servetwin.cluster.simulation import simulate
from servetwin.core.errors import StuckError
from servetwin.testing.equality import differences
from servetwin.testing.random_disaggregation import random_disaggregated_scenario
from servetwin.testing.random_scenarios import RandomScenario
from servetwin.testing.stepwise import StepwiseOutcome, simulate_stepwise

SCENARIOS = 120
PER_TEST = 40


def how_stuck(error: StuckError) -> str:
    """Return how many requests are left, or how many preemptions led to nothing: what both engines must agree on."""
    return str(error).split(" requests")[0].split(":")[0]


def run_stepwise(scenario: RandomScenario) -> StepwiseOutcome | str:
    """Return the stepwise engine's outcome, or how it got stuck."""
    try:
        return simulate_stepwise(
            scenario.workload,
            scenario.instances,
            scenario.make_router(),
            staleness_ns=scenario.staleness_ns,
            front_end=scenario.front_end,
            disaggregation=scenario.make_disaggregation(),
        )
    except StuckError as error:
        return how_stuck(error)


def run_fast(scenario: RandomScenario, **how: object) -> SimulationOutcome | str:
    """Return the same of the fast engine."""
    try:
        return simulate(
            scenario.workload,
            scenario.instances,
            scenario.make_router(),
            staleness_ns=scenario.staleness_ns,
            front_end=scenario.front_end,
            disaggregation=scenario.make_disaggregation(),
            check_invariants=True,
            **how,  # type: ignore[arg-type]
        )
    except StuckError as error:
        return how_stuck(error)


def compare(seed: int) -> None:
    """Run one scenario stepwise, and fast with skipping, without it, and with runs cut at random times."""
    scenario = random_disaggregated_scenario(seed)
    slow = run_stepwise(scenario)
    for how in ({}, {"skipping": False}, {"cut_ns": scenario.cut_ns}):
        fast = run_fast(scenario, **how)
        if isinstance(slow, str) or isinstance(fast, str):
            assert slow == fast, f"scenario {seed}, {how}"
        else:
            assert differences(fast, slow) == [], f"scenario {seed}, {how}"


@pytest.mark.parametrize("first", range(0, SCENARIOS, PER_TEST))
def test_fast_engine_equals_stepwise_engine(first: int) -> None:
    """Every token's time, every hand-over, transfer and landing, every count and every rank's rows are equal."""
    for seed in range(first, first + PER_TEST):
        compare(seed)


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=SCENARIOS, max_value=2**63))
def test_fast_engine_equals_stepwise_engine_on_new_scenarios(seed: int) -> None:
    """The same, on scenarios that nobody has tried before."""
    compare(seed)


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
