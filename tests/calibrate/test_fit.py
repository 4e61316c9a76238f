"""Fitting the host's overhead: it finds what a run was made with."""

from __future__ import annotations

import pytest

import servetwin
from servetwin.calibrate.fit import fit_host_overhead, mean_errors
from servetwin.calibrate.lss_runs import request_times, token_curve
from servetwin.calibrate.measured import RequestTimes

SCENARIO = {
    "model": "meta-llama/Llama-3.1-8B",
    "cluster": [{"name": "a", "hardware": {"device": "H100-SXM"}, "step": {"model": "roofline"}}],
    "workload": {
        "kind": "synthetic",
        "requests": 40,
        "arrivals": {"kind": "closed_loop", "concurrency": 40},
        "prompt_tokens": {"kind": "fixed", "tokens": 200},
        "output_tokens": {"kind": "fixed", "tokens": 40},
    },
}


def simulated(overhead_us: float) -> RequestTimes:
    """Simulate with an overhead per step."""
    host = {"per_step_us": overhead_us, "per_request_us": 0.0}
    return request_times(servetwin.simulate(SCENARIO, edits={"cluster.a.step.host": host}))


@pytest.mark.parametrize("overhead_us", [0.0, 700.0, 3100.0])
def test_the_overhead_of_a_simulated_run_is_found_again(overhead_us: float) -> None:
    """Within the width at which the search stops, and a little; all come at once, so no step shifts against them."""
    found = fit_host_overhead(simulated(overhead_us), simulated, precision_us=20.0)
    assert found == pytest.approx(overhead_us, abs=30)


def test_mean_errors_are_relative() -> None:
    """A run against itself has none; a slower one has positive ones."""
    base = simulated(500.0)
    assert set(mean_errors(base, base).values()) == {0.0}
    assert all(error > 0 for error in mean_errors(base, simulated(2000.0)).values())


def test_a_result_is_read_back_as_times_and_a_curve() -> None:
    """All tokens of all completed requests."""
    result = servetwin.simulate(SCENARIO)
    assert len(request_times(result).arrival_s) == 40
    assert token_curve(result).total == pytest.approx(40 * 40)
