"""Weights in CXL memory against LLMServingSim's own prediction, request by request."""

from __future__ import annotations

import csv
from pathlib import Path

from servetwin.calibrate.case import CaseResult, Check, percent_check
from servetwin.calibrate.lss_runs import LssRun, request_times
from servetwin.scenario.importers.llmservingsim import LssFlags

REQUEST_PERCENT = 3.0

CXL_RUN = LssRun(
    "configs/cluster/single_node_cxl_instance.json", "workloads/example_trace.jsonl", flags=LssFlags(num_reqs=10)
)


def predicted_cxl(reference: Path) -> list[CaseResult]:
    """Compare mode lss with LLMServingSim's prediction, TTFT and TPOT of every request."""
    times = request_times(CXL_RUN.simulate(reference, "lss"))
    with (reference / "llmservingsim" / "predicted" / "cxl.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["request id"]))
    checks: list[Check] = []
    for i, row in enumerate(rows):
        tpot_s = (times.finish_s[i] - times.first_token_s[i]) / (times.output_tokens[i] - 1)
        for metric, lss_ns, ours_s in (("ttft", row["TTFT"], times.ttft_s[i]), ("tpot", row["TPOT"], tpot_s)):
            checks.append(percent_check(metric, f"request {i}", "ms", int(lss_ns) / 1e6, ours_s * 1e3, REQUEST_PERCENT))
    worst = max(checks, key=lambda check: abs(check.error))
    return [
        CaseResult(
            "predicted/cxl.csv, `--mode lss`, every request", checks, [f"The worst is off {worst.error:+.4f} %."]
        )
    ]
