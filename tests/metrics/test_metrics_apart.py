"""Metrics where prefill and decode are apart: against the stepwise engine, and where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from disaggregation_helpers import pool, run_apart
from engine_helpers import requests

from servetwin.cluster.base import Disaggregation, LinkRecord, SimulationOutcome, routers
from servetwin.cluster.kv_transfers import KvPort, KvTransfers
from servetwin.cluster.simulation import simulate
from servetwin.core.errors import StuckError
from servetwin.metrics.breakdown import APART, PARTS, breakdown_ns
from servetwin.metrics.limits import what_limits
from servetwin.metrics.measurements import Measurements
from servetwin.metrics.options import MetricOptions
from servetwin.metrics.records import EVERY_ROW, Records
from servetwin.metrics.resources import link_series
from servetwin.metrics.timeline import Grid, kv_blocks
from servetwin.testing.equality import gauge
from servetwin.testing.outcomes import make_outcome
from servetwin.testing.random_disaggregation import random_disaggregated_scenario
from servetwin.testing.random_scenarios import RandomScenario
from servetwin.testing.stepwise import StepwiseOutcome, simulate_stepwise
from servetwin.testing.transfers import ConstantTransfers

INTERVAL_S = 1e-6
PREFILL, DECODE = pool("prefill"), pool("decode")


def both(seed: int) -> tuple[RandomScenario, Measurements, StepwiseOutcome]:
    """Return a scenario that does not get stuck, its measurements, and the stepwise run."""
    while True:
        scenario = random_disaggregated_scenario(seed)
        try:
            fast, slow = (
                run(
                    scenario.workload,
                    scenario.instances,
                    scenario.make_router(),
                    staleness_ns=scenario.staleness_ns,
                    front_end=scenario.front_end,
                    disaggregation=scenario.make_disaggregation(),
                )
                for run in (simulate, simulate_stepwise)
            )
        except StuckError:
            seed += 1000
            continue
        assert isinstance(fast, SimulationOutcome)
        assert isinstance(slow, StepwiseOutcome)
        return scenario, Measurements(fast, MetricOptions(interval_s=INTERVAL_S)), slow


def values(measurements: Measurements, name: str, metric: str) -> list[float]:
    """Return a resource's metric over time."""
    table = measurements.resources
    mine = (table["name"] == name) & (table["metric"] == metric) & (table["kind"] == "instance")
    return [float(value) for value in table["value"][mine]]


@pytest.mark.parametrize("seed", range(20))
def test_gauges_equal_the_stepwise_engine(seed: int) -> None:
    """Running and waiting requests of every instance, whatever its role, at every row's time."""
    scenario, measurements, slow = both(seed)
    times = measurements.grid.start_ns.tolist()
    for spec, instance in zip(scenario.instances, slow.instances, strict=True):
        assert values(measurements, spec.name, "running") == gauge(times, instance, 1)
        assert values(measurements, spec.name, "waiting") == gauge(times, instance, 2)


@pytest.mark.parametrize("seed", range(20))
def test_blocks_equal_the_stepwise_engine_whenever_a_step_starts(seed: int) -> None:
    """And when an instance falls idle: prompts on their way hold blocks then, too."""
    scenario, measurements, slow = both(seed)
    for spec, log, instance in zip(scenario.instances, measurements.records.logs, slow.instances, strict=True):
        if spec.plan is None:
            times = np.array(sorted([*log.start_ns, *log.idle_ns]), dtype=np.int64)
            for time_ns, *blocks in zip(
                times.tolist(), *(part.tolist() for part in kv_blocks(log, times)), strict=True
            ):
                assert blocks in [list(noted[3:]) for noted in instance.gauges if noted[0] == time_ns]


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_add_up_to_the_end_to_end_time(seed: int) -> None:
    """Of every completed request, to the nanosecond; none is negative; what is out is what preemptions took."""
    _, measurements, slow = both(seed)
    records = measurements.records
    done = np.flatnonzero(records.completed)
    parts = breakdown_ns(records, done)
    assert tuple(parts) == APART
    assert all((values >= 0).all() for values in parts.values())
    assert (sum(parts.values()) == records.finish_ns[done] - records.arrival_ns[done]).all()
    back = dict.fromkeys(range(len(records)), 0)
    for instance in slow.instances:
        for sign, events in ((-1, instance.preemptions), (1, instance.readmissions)):
            for time_ns, row in events:
                back[row] += sign * time_ns
    assert parts["preempted"].tolist() == [back[row] for row in done.tolist()]


@pytest.mark.parametrize("seed", range(20))
def test_tokens_are_counted_where_they_are_made(seed: int) -> None:
    """Prompt and output tokens, steps and preemptions of instances, and of pools, add up to the cluster's."""
    _, measurements, slow = both(seed)
    summary = measurements.summary()
    assert summary["tokens"]["output"] == sum(len(request.token_times_ns) for request in slow.requests)
    for groups in ("instances", "pools"):
        entries = summary.get(groups, [summary])
        for kind in ("prompt", "output", "cached"):
            assert sum(entry["tokens"][kind] for entry in entries) == summary["tokens"][kind], kind
        for key in ("steps", "preemptions"):
            assert sum(entry[key] for entry in entries) == summary[key]
    timeline = measurements.timeline
    rate = float(timeline["output_tokens_per_s"].sum()) * measurements.grid.interval_ns / 1e9
    assert rate == pytest.approx(summary["tokens"]["output"])


def test_a_request_alone_takes_known_parts() -> None:
    """10 ns of prefill, 3 of hand-off, 7 of transfer, 4 steps of 10 ns: each stands in its column."""
    outcome = run_apart(requests((5, 8, 5)), [PREFILL, DECODE], lambda: ConstantTransfers(7, 0), handoff_ns=3)
    table = Measurements(outcome, MetricOptions()).requests
    got = {name: round(float(table[f"{name}_s"][0]) * 1e9) for name in APART}
    assert got == {"queue": 0, "prefill": 10, "transfer": 10, "decode_queue": 0, "decode": 40, "preempted": 0}
    assert (table["prefill_instance"][0], table["instance"][0]) == ("pool-0", "pool-1")


def test_a_request_in_transit_counts_where_it_is() -> None:
    """Running on the prefill side, nowhere during the hand-off, waiting (for its KV) and running on the decode side."""
    outcome = run_apart(requests((0, 8, 3)), [PREFILL, DECODE], lambda: ConstantTransfers(9, 0), handoff_ns=5)
    records = Records(outcome, MetricOptions())
    measurements = Measurements(outcome, MetricOptions())
    measurements.grid = Grid(2, 25)
    states = {
        name: [values(measurements, spec.name, name) for spec in records.instances]
        for name in ("running", "waiting", "transferring")
    }
    seen = [
        [states[name][number][step] for name in ("running", "waiting", "transferring") for number in (0, 1)]
        for step in (2, 6, 9, 13)
    ]
    assert seen == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0]]


def test_runs_without_roles_have_no_columns_of_them() -> None:
    """Neither in requests nor in resources; the parts that they have add up."""
    measurements = Measurements(make_outcome(3).outcome, MetricOptions())
    assert not {"prefill_instance", "transfer_s", "decode_queue_s"} & set(measurements.requests)
    assert "transferring" not in set(measurements.resources["metric"])
    assert set(measurements.resources["kind"]) == {"instance"}
    parts = breakdown_ns(measurements.records, EVERY_ROW)
    assert set(parts) == set(PARTS)
    done = measurements.records.completed
    e2e = measurements.records.finish_ns - measurements.records.arrival_ns
    assert (sum(parts.values())[done] == e2e[done]).all()


@pytest.mark.parametrize(("interval_ns", "count"), [(10, 6), (20, 3), (5, 12), (15, 4)])
def test_bytes_of_links_are_kept_whatever_the_interval(interval_ns: int, count: int) -> None:
    """Rates times interval add up to what was moved; equal intervals give the record's own bytes."""
    link = LinkRecord("a->b", 10**9, 10, np.array([0, 30]), np.array([8.0, 4.0]))
    series = link_series(link, Grid(interval_ns, count))
    moved = series["bytes_per_s"] * interval_ns / 1e9
    assert moved.sum() == pytest.approx(12)
    assert series["utilization"] == pytest.approx(series["bytes_per_s"] / 1e9)
    if interval_ns == 10:
        assert moved.tolist() == pytest.approx([8, 0, 0, 4, 0, 0])


def run_over_links(bandwidth: float, every_ns: int = 40, **decode: int) -> SimulationOutcome:
    """Return a run of 40 requests of 64 tokens whose KV of a byte per token goes over links of a bandwidth."""
    instances = [replace(PREFILL, name="p-0", pool="p"), replace(pool("decode", **decode), name="d-0", pool="d")]
    transfers = KvTransfers([KvPort(spec.name, bandwidth, 1) for spec in instances])
    how = Disaggregation(routers.get("round_robin")(seed=0), transfers)
    workload = requests(*[(every_ns * number, 64, 4) for number in range(40)])
    return simulate(workload, instances, routers.get("round_robin")(seed=0), disaggregation=how)


def test_links_stand_among_the_resources() -> None:
    """Bytes per second of the two directions that carry KV; pools have rows, too."""
    measurements = Measurements(run_over_links(10e9), MetricOptions())
    table = measurements.resources
    assert set(table["name"][table["kind"] == "link"]) == {"p-0->fabric", "fabric->d-0"}
    assert set(table["name"][table["kind"] == "pool"]) == {"p", "d"}
    rate = table["value"][(table["name"] == "p-0->fabric") & (table["metric"] == "bytes_per_s")]
    assert rate.sum() == pytest.approx(40 * 64)
    assert [entry["role"] for entry in measurements.summary()["pools"]] == ["prefill", "decode"]


def test_transfers_are_the_limit_over_a_slow_link() -> None:
    """The sentence names the busiest link."""
    kind, sentence = what_limits(Records(run_over_links(1e9), MetricOptions()))
    assert kind == "transfer"
    assert "p-0->fabric" in sentence or "fabric->d-0" in sentence


def test_back_pressure_is_the_limit_where_the_decode_side_is_full() -> None:
    """One seat there: computed prompts wait; few blocks there: the sentence says that it is these."""
    kind, sentence = what_limits(Records(run_over_links(1e12, 20, max_num_seqs=1), MetricOptions()))
    assert (kind, "max_num_seqs" in sentence) == ("back_pressure", True)
    kind, sentence = what_limits(Records(run_over_links(1e12, 20, num_blocks=17), MetricOptions()))
    assert (kind, "for KV blocks" in sentence) == ("back_pressure", True)
