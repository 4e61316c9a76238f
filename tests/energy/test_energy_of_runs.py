"""Energy of whole runs: conservation, attribution, states, parts of nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from energy_helpers import NODE, run, scenario
from hypothesis import given, settings
from hypothesis import strategies as st

import servetwin
from servetwin.core.errors import InputError
from servetwin.energy.base import Traffic
from servetwin.scenario.build import build
from servetwin.scenario.load import load_scenario

PARALLEL = st.sampled_from(
    [
        {},
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2},
        {"max_num_seqs": 3},
        {"num_gpu_blocks_override": 70},
    ]
)


@settings(max_examples=12, deadline=None)
@given(
    PARALLEL,
    st.integers(1, 25),
    st.floats(0.5, 200),
    st.sampled_from([{}, {"race_to_idle": True}, {"sleep_after_s": 0.5, "sleep_w": 10.0}, {"cap_w": 450.0}]),
    st.sampled_from([0.013, 0.25, 10.0]),
    st.integers(0, 10**6),
)
def test_energy_is_the_integral_of_power_and_all_of_it_is_somebodys(
    engine: dict[str, Any], requests: int, rate: float, policy: dict[str, Any], interval_s: float, seed: int
) -> None:
    """On random runs: components sum to the total, any series integrates to it, requests' shares sum to it (1e-9)."""
    workload = scenario()["workload"] | {
        "requests": requests,
        "arrivals": {"kind": "poisson", "rate_per_s": rate},
    }
    cluster = [{"name": "a", "replicas": 2, "hardware": {"device": "H100-SXM"}, "engine": engine}]
    result = run(seed=seed, cluster=cluster, workload=workload, power={"node": NODE, "pue": 1.3, **policy})
    energy = result.energy
    assert energy is not None
    series = energy.series(interval_s)
    seconds = np.diff(np.append(series["time_s"], energy.duration_s))
    assert float((series["total"] * seconds).sum()) == pytest.approx(energy.total_j, rel=1e-9)
    for name, joules in energy.components_j.items():
        assert float((series[name] * seconds).sum()) == pytest.approx(joules, rel=1e-9, abs=1e-9)
    assert energy.request_step_j.sum() == pytest.approx(energy.step_j, rel=1e-9)
    assert energy.request_j.sum() == pytest.approx(energy.total_j, rel=1e-9)
    assert np.all(energy.request_j > 0)
    assert result.summary["energy"]["total_j"] == pytest.approx(energy.total_j)


def test_power_changes_no_time() -> None:
    """A run with all of power, without a cap, is the run without it."""
    with_power, without = run(), run(power=None)
    assert with_power.energy is not None
    assert without.energy is None
    for name in ("first_token_s", "finish_s"):
        assert np.array_equal(with_power.requests[name], without.requests[name])
    assert "energy" not in without.summary
    assert "energy_j" not in without.requests


def test_power_stays_within_the_limits() -> None:
    """Accelerators draw between idle and the limit at every moment."""
    energy = run().energy
    assert energy is not None
    curve = energy.accelerator_curve(0)
    lasting = np.diff(curve.edges_ns) > 0
    assert curve.watts[lasting].max() <= 700 * (1 + 1e-9)
    assert curve.watts[lasting].min() >= 70 * (1 - 1e-9)


def test_a_run_without_requests_in_flight_draws_what_rests() -> None:
    """An idle accelerator stands by for its time, then idles, then sleeps: closed form."""
    gap_s = 100.0
    workload = {
        "kind": "synthetic",
        "requests": 2,
        "arrivals": {"kind": "constant", "rate_per_s": 1 / gap_s},
        "prompt_tokens": 8,
        "output_tokens": 1,
    }
    devices = {"H100-SXM": {"standby_s": 20.0, "standby_w": 130.0, "idle_w": 60.0}}
    power = {"devices": devices, "sleep_after_s": 50.0, "sleep_w": 10.0}
    cluster = [{"name": "a", "hardware": {"device": "H100-SXM"}}]
    energy = run(cluster=cluster, workload=workload, power=power).energy
    assert energy is not None
    series = energy.series(10.0)["total"]
    assert series[1] == pytest.approx(130.0)
    assert series[3] == pytest.approx(60.0)
    assert series[8] == pytest.approx(10.0)


def test_race_to_idle_and_sleep_save_energy() -> None:
    """Each policy saves energy, and changes no time."""
    workload = scenario()["workload"] | {"arrivals": {"kind": "constant", "rate_per_s": 2}}
    energies = [
        run(workload=workload, power=policy).summary["energy"]["total_j"]
        for policy in ({}, {"race_to_idle": True}, {"race_to_idle": True, "sleep_after_s": 0.1, "sleep_w": 5.0})
    ]
    assert energies[0] > energies[1] > energies[2]


def test_nodes_and_losses_follow_from_their_figures() -> None:
    """Two accelerators in nodes of four: one node, two spare; supplies and cooling on top of all."""
    energy = run().energy
    assert energy is not None
    joules, seconds = energy.components_j, energy.duration_s
    assert joules["base"] == pytest.approx(200 * seconds)
    assert joules["dram"] == pytest.approx(24 * seconds)
    assert joules["nics"] == pytest.approx(15 * seconds)
    assert 100 * seconds < joules["host"] <= 140 * seconds
    used = sum(value for name, value in joules.items() if name not in ("power_supplies", "cooling"))
    assert joules["power_supplies"] == pytest.approx(used * (1 / 0.9 - 1))
    assert joules["cooling"] == pytest.approx(used / 0.9 * 0.1)


def test_links_take_energy_for_what_ranks_exchange() -> None:
    """With tensor parallelism links take energy per bit beyond their rest; a switch beside them takes its own."""
    cluster = [{"name": "a", "hardware": {"device": "H100-SXM"}, "engine": {"tensor_parallel_size": 2}}]
    switches = NODE | {"switches": {"count": 1, "pj_per_bit": 10.0}}
    energy = run(cluster=cluster, power={"node": switches}).energy
    assert energy is not None
    per_bit = energy.components_j["links"] - 2 * energy.duration_s
    assert per_bit > 0
    assert energy.components_j["switches"] == pytest.approx(2 * per_bit)


def test_traffic_of_other_rooms_is_counted() -> None:
    """Bytes through host memory take their energy per bit, beside what the run itself takes."""
    power = {"node": NODE | {"dram": {"count": 8, "idle_w": 3.0, "pj_per_bit": 6.0}}}
    deployment = build(load_scenario(scenario(power=power)))
    result = servetwin.simulate(deployment)
    traffic = Traffic("a", "dram", np.array([10**8]), np.array([2 * 10**8]), np.array([1e12]))
    assert result.energy is not None
    assert deployment.accounting.energy is not None
    with_traffic = deployment.accounting.energy.measure(result.outcome, [traffic])
    more = with_traffic.components_j["dram"] - result.energy.components_j["dram"]
    assert more == pytest.approx(1e12 * 8 * 6e-12)


def test_longer_requests_take_more_energy() -> None:
    """Of two requests that run side by side, the one with more output takes more."""
    result = run()
    table = result.requests
    long = table["output_tokens"] > np.median(table["output_tokens"])
    assert table["energy_j"][long].mean() > table["energy_j"][~long].mean()


def test_series_of_a_pool_and_bad_intervals() -> None:
    """Pools' series add up to the cluster's; an interval that is none is refused."""
    cluster = [{"name": name, "hardware": {"device": device}} for name, device in (("a", "H100-SXM"), ("b", "L40S"))]
    energy = run(cluster=cluster).energy
    assert energy is not None
    both = energy.series(0.5, "a")["total"] + energy.series(0.5, "b")["total"]
    assert both == pytest.approx(energy.series(0.5)["total"])
    with pytest.raises(InputError, match="interval of 0 s"):
        energy.series(0.0)


def test_temperature_follows_power() -> None:
    """The hottest moment lies between the air and the steady state at the limit."""
    thermal = {"resistance_c_per_w": 0.1, "ambient_c": 30.0, "throttle_c": 101.0, "time_constant_s": 0.2}
    summary = run(power={"thermal": thermal}).summary
    assert 30 + 0.1 * 120 < summary["energy"]["peak_temperature_c"] <= 30 + 0.1 * 700


def test_files_of_a_run(tmp_path: Any) -> None:
    """power.csv holds every component, requests.csv each request's energy, and the report shows the section."""
    result = run(cost={"devices": {"H100-SXM": {"on_demand": 2.0}}}, carbon={"g_per_kwh": 100.0})
    result.write(tmp_path)
    lines = (tmp_path / "power.csv").read_text().splitlines()
    assert lines[0].startswith("time_s,accelerators_w,host_w")
    assert lines[0].endswith("total_w")
    assert (tmp_path / "requests.csv").read_text().splitlines()[0].endswith(",energy_j")
    page = (tmp_path / "report.html").read_text()
    assert "Power, cost, carbon" in page
    assert "Power by component" in page
    run(power=None).write(tmp_path)
    assert not (tmp_path / "power.csv").exists()


def test_energy_where_prefill_and_decode_are_apart() -> None:
    """All energy is shared out among requests, and KV on its way passes the network cards of both sides."""
    cluster = [
        {"name": "p", "role": "prefill", "hardware": {"device": "H100-SXM"}},
        {"name": "d", "role": "decode", "hardware": {"device": "H100-SXM"}},
    ]
    power = {"node": NODE | {"nics": {"count": 1, "idle_w": 15.0, "pj_per_bit": 50.0}}}
    ways = {"disaggregation": {"port": {"bandwidth_gb_per_s": 10.0}}}
    result = run(cluster=cluster, power=power, **ways)
    energy = result.energy
    assert energy is not None
    assert energy.request_step_j.sum() == pytest.approx(energy.step_j, rel=1e-9)
    assert np.all(energy.request_step_j > 0)
    spec = result.outcome.instances[0]
    moved = result.requests["prompt_tokens"].sum() * spec.kv_bytes_per_block / spec.settings.block_size
    bits_j = energy.components_j["nics"] - 2 * 15 * energy.duration_s
    assert bits_j == pytest.approx(2 * moved * 8 * 50e-12, rel=1e-6)
