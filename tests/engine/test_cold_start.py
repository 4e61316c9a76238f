"""Instances that begin cold: nothing before they are ready, and the fast engine equals the stepwise one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from servetwin.cluster.simulation import simulate
from servetwin.testing.equality import differences
from servetwin.testing.random_scenarios import random_scenario
from servetwin.testing.stepwise import simulate_stepwise


@pytest.mark.parametrize("seed", range(0, 300, 6))
def test_cold_instances_equal_the_stepwise_engine(seed: int) -> None:
    """Every token's time and every count, with half of the instances ready in the middle of the arrivals."""
    scenario = random_scenario(seed)
    middle = max(1, int(scenario.workload.arrival_ns.max()) // 2)
    specs = [
        replace(spec, settings=replace(spec.settings, ready_ns=middle if number % 2 == 0 else 0))
        for number, spec in enumerate(scenario.instances)
    ]
    arguments = {"staleness_ns": scenario.staleness_ns, "front_end": scenario.front_end}
    slow = simulate_stepwise(scenario.workload, specs, scenario.make_router(), **arguments)
    fast = simulate(scenario.workload, specs, scenario.make_router(), check_invariants=True, **arguments)
    assert differences(fast, slow) == []
    for log, spec in zip(fast.logs, specs, strict=True):
        assert all(start >= spec.settings.ready_ns for start in log.start_ns)
