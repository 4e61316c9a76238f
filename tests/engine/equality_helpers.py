"""Running a random scenario by both engines and holding one against the other."""

from __future__ import annotations

from servetwin.cluster.base import SimulationOutcome
from servetwin.cluster.simulation import simulate
from servetwin.core.errors import StuckError
from servetwin.testing.equality import differences
from servetwin.testing.random_scenarios import RandomScenario
from servetwin.testing.stepwise import StepwiseOutcome, simulate_stepwise


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
            encoders=scenario.encoders,
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
            encoders=scenario.encoders,
            check_invariants=True,
            **how,  # type: ignore[arg-type]
        )
    except StuckError as error:
        return how_stuck(error)


def compare(scenario: RandomScenario, name: str, *, may_get_stuck: bool = False) -> None:
    """Run one scenario stepwise, and fast with skipping, without it, and with runs cut at random times."""
    slow = run_stepwise(scenario)
    for how in ({}, {"skipping": False}, {"cut_ns": scenario.cut_ns}):
        fast = run_fast(scenario, **how)
        if isinstance(slow, str) or isinstance(fast, str):
            assert may_get_stuck, f"scenario {name}, {how}: {slow}; {fast}"
            assert slow == fast, f"scenario {name}, {how}"
        else:
            assert differences(fast, slow) == [], f"scenario {name}, {how}"
