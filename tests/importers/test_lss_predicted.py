"""The defect of LLMServingSim's groups that is number 18 here: its switch, and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servetwin.calibrate.lss_cases import PARALLEL_RUNS
from servetwin.calibrate.lss_runs import request_times

PLAN = "cluster.lss.step.plan"


def _tpot_s(reference: Path, name: str, **changes: bool | int | None) -> float:
    edits = {f"{PLAN}.{key}": value for key, value in changes.items()}
    times = request_times(PARALLEL_RUNS[name].simulate(reference, "lss", edits))
    return float(np.mean((times.finish_s - times.first_token_s) / (times.output_tokens - 1)))


@pytest.mark.measured
@pytest.mark.parametrize(("name", "at_least"), [("moe_dp_tp", 1.7), ("dual_moe_dp_ep", 1.8), ("moe_dp_pp", 1.01)])
def test_members_in_phase_are_faster(reference: Path, name: str, at_least: float) -> None:
    """Without members that join idle, tokens take about half as long; in a pipeline it costs little."""
    assert _tpot_s(reference, name) > at_least * _tpot_s(reference, name, late_members_join_idle=False)


@pytest.mark.measured
def test_the_lead_of_members_matters_where_they_meet(reference: Path) -> None:
    """In a pipeline, members that do not meet in each layer would get out of step by more than a link's latency."""
    assert _tpot_s(reference, "moe_dp_pp") != _tpot_s(reference, "moe_dp_pp", lead_ns=None)
