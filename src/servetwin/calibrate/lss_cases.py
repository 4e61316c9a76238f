"""The cases with reference data of LLMServingSim: real vLLM runs with per-request times, and its own predictions."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from servetwin.calibrate.case import CaseResult, Check, percent_check, points_check
from servetwin.calibrate.compare import STATISTICS, statistic_of
from servetwin.calibrate.fit import fit_host_overhead
from servetwin.calibrate.lss_runs import LssRun, request_times
from servetwin.calibrate.measured import RequestTimes, read_bench_log
from servetwin.scenario.importers.llmservingsim import LssFlags

MEASURED = "llmservingsim/measured/RTXPRO6000"

BENCH_RUNS = {
    "Llama-3.1-8B": LssRun(
        "measured/RTXPRO6000/Llama-3.1-8B/config.json", "workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl"
    ),
    "Qwen3-32B": LssRun("measured/RTXPRO6000/Qwen3-32B/config.json", "workloads/sharegpt-qwen3-32b-300-sps10.jsonl"),
}
"""vLLM 0.19 on RTX PRO 6000, by the model's folder: one card, and two with tensor parallelism."""

MEAN_TARGETS = {"ttft": 2.5, "tpot": 1.0, "e2e": 1.0}
PERCENTILE_TARGETS = {"ttft": 7.0, "tpot": 2.0, "e2e": 2.0}

SUMMARY_POINTS = 0.5
PREDICTED_PERCENT = 1.0
PARALLEL_PERCENT = 3.0
HOST_KEY = "cluster.lss.step.host.per_step_us"

_SUMMARY_METRICS = {"TTFT": "ttft", "TPOT": "tpot", "Latency": "e2e"}
_SUMMARY_STATISTICS = {"Mean": "mean", "Median": "p50", "P90": "p90", "P95": "p95", "P99": "p99"}


def read_bench(reference: Path, name: str) -> RequestTimes:
    """Return the measured times of one of ``BENCH_RUNS``."""
    return read_bench_log(reference / MEASURED / name / "vllm" / "requests.jsonl")


def read_summary(path: Path) -> dict[tuple[str, str], float]:
    """Return LLMServingSim's own simulated figures, in milliseconds, by metric and statistic."""
    figures: dict[tuple[str, str], float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == 5 and words[0] in _SUMMARY_METRICS:
            figures[_SUMMARY_METRICS[words[0]], _SUMMARY_STATISTICS[words[1]]] = float(words[3])
    return figures


def lss_summaries(reference: Path) -> list[CaseResult]:
    """Compare mode lss with LLMServingSim's own summary of the two runs, by the error against vLLM."""
    results = []
    for name, run in BENCH_RUNS.items():
        measured = read_bench(reference, name)
        simulated = request_times(run.simulate(reference, "lss"))
        summary = read_summary(reference / MEASURED / name / "validation" / "summary.txt")
        checks = [
            _error_check(metric, statistic, measured, simulated, lss_ms)
            for (metric, statistic), lss_ms in summary.items()
        ]
        results.append(
            CaseResult(
                f"{name} on RTX PRO 6000, `--mode lss` against LLMServingSim's own summary",
                checks,
                ["Measured and simulated are LLMServingSim's and our error against vLLM."],
            )
        )
    return results


def _error_check(metric: str, statistic: str, measured: RequestTimes, simulated: RequestTimes, lss_ms: float) -> Check:
    """Compare LLMServingSim's error against vLLM with ours; it counts one-token outputs as TPOT 0, here are none."""
    real = statistic_of(getattr(measured, f"{metric}_s"), statistic) * 1e3
    ours = statistic_of(getattr(simulated, f"{metric}_s"), statistic) * 1e3
    return points_check(metric, statistic, (lss_ms / real - 1) * 100, (ours / real - 1) * 100, SUMMARY_POINTS)


def bench_defaults(reference: Path) -> list[CaseResult]:
    """Compare default mode, with the documented default host overhead, with the two runs."""
    return [
        CaseResult(
            f"{name} on RTX PRO 6000, default mode, default host overhead",
            bench_checks(read_bench(reference, name), request_times(run.simulate(reference))),
        )
        for name, run in BENCH_RUNS.items()
    ]


def bench_fits(reference: Path) -> list[CaseResult]:
    """Fit the host overhead on one run and judge it on the other, both ways."""
    names = list(BENCH_RUNS)
    return [_fit_and_judge(reference, fitted, judged) for fitted, judged in (names, reversed(names))]


def _fit_and_judge(reference: Path, fitted: str, judged: str) -> CaseResult:
    def simulate(name: str, overhead_us: float) -> RequestTimes:
        return request_times(BENCH_RUNS[name].simulate(reference, edits={HOST_KEY: overhead_us}))

    overhead_us = fit_host_overhead(read_bench(reference, fitted), lambda us: simulate(fitted, us))
    return CaseResult(
        f"{judged} on RTX PRO 6000, default mode, host overhead fitted on {fitted}",
        bench_checks(read_bench(reference, judged), simulate(judged, overhead_us)),
        [f"Fitted: {overhead_us:.0f} µs per step; nothing else."],
    )


def bench_checks(measured: RequestTimes, simulated: RequestTimes) -> list[Check]:
    """Return the errors of mean and percentiles of TTFT, TPOT and E2E, with their targets."""
    return [
        percent_check(
            metric,
            statistic,
            "ms",
            statistic_of(getattr(measured, f"{metric}_s"), statistic) * 1e3,
            statistic_of(getattr(simulated, f"{metric}_s"), statistic) * 1e3,
            (MEAN_TARGETS if statistic == "mean" else PERCENTILE_TARGETS)[metric],
        )
        for metric in MEAN_TARGETS
        for statistic in STATISTICS
    ]


PREDICTED_RUNS = {
    "single": LssRun("configs/cluster/single_node_single_instance.json", "workloads/example_trace.jsonl"),
    "multi": LssRun("configs/cluster/single_node_multi_instance.json", "workloads/example_trace.jsonl"),
}


def predicted(reference: Path) -> list[CaseResult]:
    """Compare mode lss with LLMServingSim's predictions, request by request."""
    return [predicted_run(reference, name, run) for name, run in PREDICTED_RUNS.items()]


PARALLEL_RUNS = {
    name: LssRun(
        f"configs/cluster/{cluster}_instance.json",
        "workloads/example_trace.jsonl",
        flags=LssFlags(num_reqs=10),
        models="configs/model",
    )
    for name, cluster in {
        "pp": "single_node_pp",
        "tp_pp": "single_node_tp_pp",
        "dp": "single_node_dp",
        "moe": "single_node_moe_single",
        "moe_pp": "single_node_moe_pp",
        "moe_dp_tp": "single_node_moe_dp_tp",
        "moe_dp_pp": "single_node_moe_dp_pp",
        "moe_dp_tp_pp": "single_node_moe_dp_tp_pp",
        "dual_moe_dp_ep": "dual_node_moe_dp_ep_intra_inter",
    }.items()
}
"""Pipelines, data-parallel groups and experts, ten requests each."""


def predicted_parallel(reference: Path) -> list[CaseResult]:
    """Compare mode lss with LLMServingSim's predictions under every kind of parallelism: the worst requests."""
    return [predicted_worst(reference, name, run) for name, run in PARALLEL_RUNS.items()]


def predicted_worst(reference: Path, name: str, run: LssRun) -> CaseResult:
    """Return the worst requests of mode lss beside LLMServingSim's, and how many are beyond the target."""
    checks = _request_checks(reference, name, run, PARALLEL_PERCENT)
    worst = [
        max((check for check in checks if check.metric == metric), key=lambda check: abs(check.error))
        for metric in ("ttft", "tpot")
    ]
    beyond = len({check.statistic for check in checks if not check.met})
    count = Check(f"requests beyond {PARALLEL_PERCENT:g} %", f"of {len(checks) // 2}", "", 0, beyond, beyond, 0, "")
    title = f"predicted/{name}.csv, `--mode lss`, the worst request"
    return CaseResult(title, [*worst, count])


def predicted_run(reference: Path, name: str, run: LssRun) -> CaseResult:
    """Compare one of LLMServingSim's predictions, request by request."""
    checks = _request_checks(reference, name, run, PREDICTED_PERCENT)
    worst = max(checks, key=lambda check: abs(check.error))
    exact = int(np.sum([abs(check.error) < 1e-4 for check in checks]))
    remarks = [
        f"{exact} of {len(checks)} figures are equal to 1 part in a million; the worst is off {worst.error:+.2f} %."
    ]
    return CaseResult(f"predicted/{name}.csv, `--mode lss`, every request", checks, remarks)


def _request_checks(reference: Path, name: str, run: LssRun, target: float) -> list[Check]:
    """Return the TTFT and TPOT of each request beside LLMServingSim's."""
    times = request_times(run.simulate(reference, "lss"))
    with (reference / "llmservingsim" / "predicted" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["request id"]))
    checks = []
    for i, row in enumerate(rows):
        tpot_s = (times.finish_s[i] - times.first_token_s[i]) / (times.output_tokens[i] - 1)
        for metric, lss_ns, ours_s in (("ttft", row["TTFT"], times.ttft_s[i]), ("tpot", row["TPOT"], tpot_s)):
            checks.append(percent_check(metric, f"request {i}", "ms", int(lss_ns) / 1e6, ours_s * 1e3, target))
    return checks
