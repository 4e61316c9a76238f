"""Metrics of simulated random scenarios against what the stepwise engine saw."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from naive_metrics import same

from servetwin.cluster.base import SimulationOutcome
from servetwin.cluster.simulation import simulate
from servetwin.metrics.measurements import Measurements
from servetwin.metrics.options import MetricOptions
from servetwin.metrics.resources import RESOURCE_METRICS
from servetwin.metrics.timeline import kv_blocks
from servetwin.testing.equality import gauge
from servetwin.testing.random_groups import random_group_scenario
from servetwin.testing.random_scenarios import RandomScenario, random_scenario
from servetwin.testing.stepwise import StepwiseOutcome, simulate_stepwise

INTERVAL_S = 1e-6


every_scenario = pytest.mark.parametrize(
    ("make", "seed"),
    [(random_scenario, seed) for seed in range(40)] + [(random_group_scenario, seed) for seed in range(30)],
)


def both(make: Callable[[int], RandomScenario], seed: int) -> tuple[RandomScenario, Measurements, StepwiseOutcome]:
    """Return a scenario, the measurements of the fast engine's run of it, and the stepwise run."""
    scenario = make(seed)
    fast, slow = (
        run(
            scenario.workload,
            scenario.instances,
            scenario.make_router(),
            staleness_ns=scenario.staleness_ns,
            front_end=scenario.front_end,
        )
        for run in (simulate, simulate_stepwise)
    )
    assert isinstance(fast, SimulationOutcome)
    assert isinstance(slow, StepwiseOutcome)
    return scenario, Measurements(fast, MetricOptions(interval_s=INTERVAL_S)), slow


@every_scenario
def test_metrics_equal_those_of_the_stepwise_run(make: Callable[[int], RandomScenario], seed: int) -> None:
    """Token times, inter-token latencies, tokens and every gauge are those that stepping one by one shows."""
    scenario, measurements, slow = both(make, seed)
    summary = measurements.summary()
    done = [request for request in slow.requests if request.state == "completed"]
    for request in slow.requests:
        assert measurements.token_times_ns(request.row).tolist() == request.token_times_ns
    assert same(summary["itl_s"], [(b - a) / 1e9 for request in done for a, b in pairwise(request.token_times_ns)])
    assert same(summary["queue_s"], [(request.first_scheduled_ns - request.arrival_ns) / 1e9 for request in done])
    assert summary["tokens"]["output"] == sum(len(request.token_times_ns) for request in slow.requests)
    assert summary["preemptions"] == sum(request.preemptions for request in slow.requests)
    assert summary["steps"] == sum(len(instance.steps) for instance in slow.instances)
    for spec, run, entry in zip(scenario.instances, slow.instances, summary["instances"], strict=True):
        peak = max((step[4] for step in run.steps), default=0)
        assert entry["kv"]["peak_used_fraction"] == peak / spec.settings.num_blocks


@every_scenario
def test_batch_and_queue_equal_the_stepwise_gauges(make: Callable[[int], RandomScenario], seed: int) -> None:
    """Running and waiting requests are those of the stepwise engine at every row's time."""
    scenario, measurements, slow = both(make, seed)
    times = measurements.grid.start_ns
    series = measurements.resources["value"].reshape(len(times), len(scenario.instances), len(RESOURCE_METRICS))
    for number, instance in enumerate(slow.instances):
        for column, metric in enumerate(("running", "waiting"), start=1):
            expected = gauge(times.tolist(), instance, column)
            assert series[:, number, RESOURCE_METRICS.index(metric)].tolist() == expected, metric


@pytest.mark.parametrize("seed", range(40))
def test_kv_blocks_equal_the_stepwise_gauges(seed: int) -> None:
    """Blocks used and cached are those of the stepwise engine at every row's time."""
    _, measurements, slow = both(random_scenario, seed)
    times = measurements.grid.start_ns
    for log, instance in zip(measurements.records.logs, slow.instances, strict=True):
        used, cached = kv_blocks(log, times)
        assert used.tolist() == gauge(times.tolist(), instance, 3)
        assert cached.tolist() == gauge(times.tolist(), instance, 4)


@pytest.mark.parametrize("seed", range(30))
def test_kv_blocks_of_groups_are_those_when_a_batch_was_scheduled_last(seed: int) -> None:
    """With several batches in flight one may end and none begin; what it gave back shows when the next one does."""
    _, measurements, slow = both(random_group_scenario, seed)
    times = measurements.grid.start_ns
    for log, instance in zip(measurements.records.logs, slow.instances, strict=True):
        rows = [(start, 1, used, cached) for start, _, _, _, used, cached in instance.steps]
        rows += [(time, 0, used, cached) for time, cached, used in instance.idle]
        rows.sort(key=lambda row: row[:2])
        expected = [next((row[2:] for row in reversed(rows) if row[0] <= time), (0, 0)) for time in times.tolist()]
        assert list(zip(*(blocks.tolist() for blocks in kv_blocks(log, times)), strict=True)) == expected
