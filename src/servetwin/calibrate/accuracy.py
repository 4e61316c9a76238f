"""``make accuracy``: every case with measured data, and the page docs/accuracy.md that says how near we come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from servetwin.calibrate.case import Case, CaseResult, Check
from servetwin.calibrate.collectives_cases import COLLECTIVES_CASES
from servetwin.calibrate.disaggregation_cases import disaggregation_cases
from servetwin.calibrate.energy_cases import ENERGY_CASES
from servetwin.calibrate.ispass_cases import kv_case, throughput_cases
from servetwin.calibrate.kv_cases import kv_capacity_cases
from servetwin.calibrate.lss_cases import bench_defaults, bench_fits, lss_summaries, predicted, predicted_parallel
from servetwin.calibrate.offload_cases import predicted_cxl
from servetwin.calibrate.pim_cases import figure_10, predicted_pim
from servetwin.calibrate.roofline_cases import ROOFLINE_CASES
from servetwin.calibrate.tier_cases import predicted_tiers
from servetwin.core.errors import InputError

CASES: tuple[Case, ...] = (
    lss_summaries,
    bench_defaults,
    bench_fits,
    throughput_cases,
    kv_case,
    predicted,
    predicted_parallel,
    predicted_tiers,
    disaggregation_cases,
    kv_capacity_cases,
    *ROOFLINE_CASES,
    *COLLECTIVES_CASES,
    *ENERGY_CASES,
    predicted_pim,
    figure_10,
    predicted_cxl,
)

PAGE = Path("docs/accuracy.md")

_INTRODUCTION = """# Accuracy

Written by `make accuracy`, which runs every case on the reference data; do not edit. Errors are simulated less
measured, in percent of measured where nothing else stands. Targets that are missed are published like the others.

In default mode a scenario states nothing about time but the profile, the hardware and, where there are several
accelerators, the bandwidth of the cluster file; the rest are documented defaults. Some of these were set on runs below,
so that not every number is a blind prediction:

- the host overhead of vLLM and the launch time of steps with a chunk, on the Llama-3.1-8B run on an RTX PRO 6000;
- what an all-reduce over PCIe takes beside its bytes, on decode steps of the Qwen3-32B run on two of them;
- the host overhead on a TPU, on the run of figure 9;
- how far flat decode tables of the A6000 are tilted, on figure 5's MD, SD+PC and SM (not on PDD).

Where a heading says that the host overhead was fitted, nothing but its part per step was, on the run that it names. The
attention tables of the A6000 carry factors that were tuned to these runs by those who made them (FORMATS 5.10).
"""


def reference_folder() -> Path:
    """Return the folder of reference data: ``$SERVETWIN_SHARED/reference``, else ``../shared/reference``.

    Raises
    ------
    InputError
        If there is none.
    """
    folder = Path(os.environ.get("SERVETWIN_SHARED", "../shared")) / "reference"
    if not (folder / "llmservingsim").is_dir():
        message = "no reference data; set SERVETWIN_SHARED to the folder that holds reference/llmservingsim"
        raise InputError(message, where=str(folder))
    return folder


def run_cases(reference: Path) -> list[CaseResult]:
    """Run all cases."""
    return [result for case in CASES for result in case(reference)]


def accuracy_page(results: Sequence[CaseResult]) -> str:
    """Return the page, in Markdown: what is missed first, then every case."""
    checks = [check for result in results for check in result.checks]
    judged = [check for check in checks if check.target is not None]
    missed = [(result, check) for result in results for check in result.missed]
    lines = [_INTRODUCTION, f"{len(judged) - len(missed)} of {len(judged)} targets are met.", ""]
    if missed:
        lines += ["## Targets that are missed", ""]
        lines += [
            f"- {result.title}: {check.metric} {check.statistic}: {_error(check)}, target {check.target:g}"
            for result, check in missed
        ]
        lines.append("")
    return "\n".join([*lines, *(line for result in results for line in _case(result))]) + "\n"


def _case(result: CaseResult) -> list[str]:
    lines = [f"## {result.title}", ""]
    lines += [line for remark in result.remarks for line in (remark, "")]
    lines += ["| metric | statistic | measured | simulated | error | target | met |", "|---|---|---|---|---|---|---|"]
    return [*lines, *map(_row, result.checks), ""]


def _row(check: Check) -> str:
    unit = f" {check.unit}" if check.unit else ""
    target = "–" if check.target is None else f"{check.target:g}"
    met = {True: "yes", False: "**no**", None: "–"}[check.met]
    cells = [check.metric, check.statistic, _number(check.measured) + unit, _number(check.simulated) + unit]
    return f"| {' | '.join([*cells, _error(check), target, met])} |"


def _error(check: Check) -> str:
    return f"{check.error:+.2f} {check.error_unit}"


def _number(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def write_page(reference: Path, path: Path = PAGE) -> list[CaseResult]:
    """Run all cases and write the page."""
    results = run_cases(reference)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(accuracy_page(results), encoding="utf-8")
    return results
