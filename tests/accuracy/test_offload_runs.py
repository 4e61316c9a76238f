"""Weights in CXL memory against LLMServingSim's prediction, and the switches of its defect."""

from __future__ import annotations

from pathlib import Path

import pytest

from servetwin.calibrate.lss_runs import LssRun
from servetwin.calibrate.offload_cases import CXL_RUN, predicted_cxl
from servetwin.scenario.importers.llmservingsim import LssFlags

pytestmark = pytest.mark.measured


def test_predictions_of_lss_are_met_request_by_request(reference: Path) -> None:
    """TTFT and TPOT of every request within 3 %; in truth within 0.01 %."""
    (result,) = predicted_cxl(reference)
    assert result.missed == []
    assert max(abs(check.error) for check in result.checks) < 0.01


def test_loads_at_the_start_can_be_turned_off(reference: Path) -> None:
    """With two buffers, one device works at a time where blocks lie side by side: steps take longer."""
    lss = CXL_RUN.simulate(reference, "lss").summary["tpot_s"]["mean"]
    ahead = CXL_RUN.simulate(reference, "lss", {"cluster.lss.placement.at_start": False}).summary["tpot_s"]["mean"]
    deep = {"cluster.lss.placement.at_start": False, "cluster.lss.placement.prefetch": 32}
    assert ahead > 1.5 * lss
    assert CXL_RUN.simulate(reference, "lss", deep).summary["tpot_s"]["mean"] == pytest.approx(lss, rel=0.02)


def test_reading_directly_removes_the_read_of_the_accelerators_memory(reference: Path) -> None:
    """Defect 9's other half: no product is computed after its weights have come, each while they come."""
    edits = {"cluster.lss.placement.at_start": False, "cluster.lss.placement.access": "direct"}
    late = {"cluster.lss.placement.at_start": False, "cluster.lss.placement.prefetch": 0}
    direct = CXL_RUN.simulate(reference, "lss", edits).summary["tpot_s"]["mean"]
    assert direct < CXL_RUN.simulate(reference, "lss", late).summary["tpot_s"]["mean"] - 0.005


@pytest.mark.parametrize("mode", ["lss", "default"])
def test_local_offloading_and_placements_at_home(reference: Path, mode: str) -> None:
    """A placement at home changes nothing; reading from the accelerator's memory takes a little longer at most."""
    cluster = "configs/cluster/single_node_memory_instance.json"
    trace = "workloads/example_trace.jsonl"
    home = LssRun(cluster, trace, flags=LssFlags(num_reqs=5))
    plain = LssRun(cluster.replace("memory", "single"), trace, flags=LssFlags(num_reqs=5))
    local = LssRun(cluster, trace, flags=LssFlags(num_reqs=5, enable_local_offloading=True))
    times = [run.simulate(reference, mode).summary["tpot_s"]["mean"] for run in (plain, home, local)]  # type: ignore[arg-type]
    assert times[0] == times[1] <= times[2] < 1.3 * times[0]
