"""LLMServingSim's predictions with a KV tier in host memory that the instances of a node share."""

from __future__ import annotations

from pathlib import Path

from servetwin.calibrate.case import CaseResult
from servetwin.calibrate.lss_cases import predicted_worst
from servetwin.calibrate.lss_runs import LssRun
from servetwin.scenario.importers.llmservingsim import LssFlags

TIER_RUNS = {
    name: LssRun(
        f"configs/cluster/{cluster}_multi_instance.json",
        "workloads/example_trace.jsonl",
        flags=LssFlags(num_reqs=10, enable_prefix_caching=True, enable_prefix_sharing=True, prefix_storage="CPU"),
    )
    for name, cluster in {
        "prefix_cpu_mem_pool": "single_node",
        "dual_prefix_cpu_mem_pool": "dual_node",
    }.items()
}
"""Ten short requests each: none has a whole chunk, so that they show only that a tier nobody uses costs nothing."""


def predicted_tiers(reference: Path) -> list[CaseResult]:
    """Compare mode lss with LLMServingSim's predictions with a shared host tier: the worst requests."""
    return [predicted_worst(reference, name, run) for name, run in TIER_RUNS.items()]
