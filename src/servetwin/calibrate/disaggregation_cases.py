"""The cases in which prompts and outputs are computed on different instances."""

from __future__ import annotations

from pathlib import Path

from servetwin.calibrate.case import CaseResult
from servetwin.calibrate.ispass_cases import SeriesCase, throughput_case
from servetwin.calibrate.lss_cases import predicted_worst
from servetwin.calibrate.lss_runs import LssRun
from servetwin.scenario.importers.llmservingsim import LssFlags

A6000_PDD = SeriesCase(
    "A6000, one prefill and one decode instance (figure 5, PDD)",
    "figure_5/A6000",
    "PDD",
    LssRun(
        "ispass26/figure_5/A6000/config/PDD_config.json",
        "ispass26/workloads/sharegpt_req300_rate10_llama.jsonl",
        "profiles-v0",
        LssFlags(max_num_seqs=256),
    ),
)

PREDICTED = LssRun(
    "configs/cluster/single_node_pd_instance.json", "workloads/example_trace.jsonl", flags=LssFlags(num_reqs=10)
)


def disaggregation_cases(reference: Path) -> list[CaseResult]:
    """Compare a measured run of vLLM, and LLMServingSim's prediction, request by request."""
    case, result = throughput_case(reference, A6000_PDD)
    breakdown = ", ".join(
        f"{name[:-2].replace('_', ' ')} {seconds * 1e3:,.0f} ms"
        for name, seconds in result.summary["breakdown_s"].items()
    )
    remarks = [
        f"Where a request's time goes on average: {breakdown}.",
        "The software of the measured run is not known; the default connector's costs are taken. Matrix products of 65 "
        "to 82 tokens take a kernel on this card that is slower than that of 83 to 128; default mode's tables never "
        "fall, and so make the latter slow by 5 %, 1 % of a step.",
    ]
    return [CaseResult(case.title, case.checks, remarks), predicted_worst(reference, "pd", PREDICTED)]
