"""The quick part of ``make accuracy``, asserted: our targets against measured runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from servetwin.calibrate.case import CaseResult
from servetwin.calibrate.disaggregation_cases import disaggregation_cases
from servetwin.calibrate.ispass_cases import FIGURE_7, kv_case, throughput_cases
from servetwin.calibrate.lss_cases import BENCH_RUNS, bench_defaults, lss_summaries, predicted, predicted_parallel
from servetwin.calibrate.lss_runs import LssRun
from servetwin.scenario.importers.llmservingsim import LssFlags

pytestmark = pytest.mark.measured


def missed(results: list[CaseResult]) -> list[str]:
    """Return what misses its target, readably."""
    return [f"{result.title}: {check}" for result in results for check in result.missed]


def test_mode_lss_reproduces_lss_own_summary(reference: Path) -> None:
    """Within 0.5 percentage points of error in every metric and statistic of both runs."""
    results = lss_summaries(reference)
    assert [len(result.checks) for result in results] == [15, 15]
    assert missed(results) == []


def test_default_mode_is_near_the_measured_runs_and_nearer_than_lss(reference: Path) -> None:
    """All targets with the default overhead, and smaller mean errors than mode lss has in each run."""
    ours, lss = bench_defaults(reference), lss_summaries(reference)
    assert missed(ours) == []
    for own, theirs in zip(ours, lss, strict=True):
        errors = [abs(check.error) for check in own.checks if check.statistic == "mean"]
        lss_errors = [abs(check.simulated) for check in theirs.checks if check.statistic == "mean"]
        assert sum(errors) < sum(lss_errors)


def test_predictions_of_lss_are_met_request_by_request(reference: Path) -> None:
    """TTFT and TPOT of every request within 1 %."""
    assert missed(predicted(reference)) == []


def test_predictions_of_lss_are_met_under_all_kinds_of_parallelism(reference: Path) -> None:
    """No request's TTFT or TPOT is off by 3 %, and the worst of each file by less than 1 %."""
    results = predicted_parallel(reference)
    assert len(results) == 9
    assert missed(results) == []
    assert all(abs(check.error) < 1.0 for result in results for check in result.checks)


def test_measured_series_are_met(reference: Path) -> None:
    """Figures 5 and 9: times of shares, WAPE beside LSS's own, mean TPOT on the TPU."""
    assert missed(throughput_cases(reference)) == []


def test_prefill_and_decode_apart_are_met(reference: Path) -> None:
    """Times of shares of a measured run, and WAPE beside LSS's; LLMServingSim's requests to half a percent."""
    measured, predicted_ = disaggregation_cases(reference)
    assert missed([measured, predicted_]) == []
    assert all(abs(check.error) < 0.5 for check in predicted_.checks)


def test_measured_kv_memory_is_met(reference: Path) -> None:
    """Figure 7: KV memory over time and the final hit rate."""
    assert missed(kv_case(reference)) == []


LSS_POINTS = {
    "cluster.lss.step.interpolation": "default",
    "cluster.lss.step.skew": "none",
    "cluster.lss.step.merge_prefills": False,
    "cluster.lss.step.token_padding": "cuda_graph",
    "cluster.lss.step.host.per_step_us": 100.0,
    "cluster.lss.step.host_io": None,
    "cluster.lss.step.collective": {"kind": "ring"},
    "cluster.lss.hardware.link.latency_ns": 0.0,
    "cluster.lss.engine.idle_poll_us": 0.0,
}
"""Each point of mode lss, and a value with which it is off."""

WITH_PAUSES = LssRun(FIGURE_7.cluster, "ispass26/workloads/sharegpt_pulse_req10_n3_delay60.jsonl", FIGURE_7.profiles)
"""A run in which the instance falls idle between pulses."""


@pytest.mark.parametrize("key", LSS_POINTS)
def test_each_point_of_mode_lss_can_be_turned_off_alone(reference: Path, key: str) -> None:
    """And changes the result: no point is without effect, none needs another."""
    run = WITH_PAUSES if "idle" in key else BENCH_RUNS["Qwen3-32B"]
    few = dataclasses.replace(run, flags=LssFlags(num_reqs=30))
    on, off = few.simulate(reference, "lss"), few.simulate(reference, "lss", {key: LSS_POINTS[key]})
    assert on.summary["e2e_s"]["mean"] != off.summary["e2e_s"]["mean"]
