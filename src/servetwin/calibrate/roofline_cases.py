"""The cases of the roofline: runs on H100 (closed form, leave-one-model-out, simulated) and operator tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.case import CaseResult, Check, percent_check
from servetwin.calibrate.compare import statistic_of
from servetwin.calibrate.lss_cases import BENCH_RUNS, read_bench
from servetwin.calibrate.lss_runs import request_times
from servetwin.calibrate.roofline import mlenergy_runs, vllm_runs
from servetwin.calibrate.roofline.kernel_fit import judge_kind, table_of
from servetwin.calibrate.roofline.kernel_times import KINDS
from servetwin.calibrate.roofline.mlenergy_runs import Row, read_rows
from servetwin.calibrate.roofline.run_fit import (
    DEVICE,
    Models,
    RunCoefficients,
    architecture_of,
    fit_mlenergy_rows,
    fit_vllm_runs,
)
from servetwin.calibrate.roofline.simulated import simulated_means
from servetwin.calibrate.roofline.tables import SYSTEMS
from servetwin.calibrate.roofline.vllm_runs import Stage, read_stages, run_errors
from servetwin.hardware.catalogue import load_device
from servetwin.network.aiconfigurator import TABLES_VARIABLE, tables_folder
from servetwin.step.efficiency import family_efficiency
from servetwin.step.host import HOSTS, VLLM_FRONT_END_US

RUN_TARGETS = (3.0, 3.0, 6.0)
WORST_E2E = 8.0
HELD_OUT_TARGETS = (6.0, 6.0, 10.0)
MOE_E2E = 12.0
ROW_TARGET, HELD_OUT_ROW_TARGET = 10.0, 12.0
KERNEL_TARGET = 12.0
PROFILED_TARGETS = {"tpot": 8.0, "e2e": 8.0}
SIMULATED = ("llama-2-7b-tp1-roleplay", "codellama-34b-tp2-codegen")

Errors = Mapping[str, NDArray[np.float64]]


def coefficients(host: str) -> RunCoefficients:
    """Return the coefficients in use on H100 with one of `HOSTS`."""
    front_end_us = VLLM_FRONT_END_US if host.startswith("vllm") else 0.0
    return RunCoefficients(family_efficiency(load_device(DEVICE).family), HOSTS[host], front_end_us)


def vllm_015_runs(reference: Path) -> list[CaseResult]:
    """Judge the means of the 12 runs of vLLM 0.15 on H100, with the coefficients in use, by the closed form."""
    errors = _errors(read_stages(reference), coefficients("vllm-0.15"))
    checks = _medians(errors, "runs", RUN_TARGETS)
    worst = max(abs(values[0]) for values in errors.values())
    checks.append(_error_check(vllm_runs.METRICS[0], "worst run", worst * 100, WORST_E2E))
    checks += [
        _error_check(metric, name[16:], values[i] * 100, None)
        for name, values in errors.items()
        for i, metric in enumerate(vllm_runs.METRICS)
    ]
    remarks = [
        "Errors of means over a run. Fitted on the nine runs of dense models: the cost per layer, the share of "
        "bandwidth of products, the host per step, the front end; the rest, collectives among it, is from tables. "
        "Mixtral's experts come from the tables alone.",
        "By the closed form: steady batches, cached prompts, 2.5 steps to the first token (asynchronous scheduling).",
    ]
    return [CaseResult("vLLM 0.15 on H100, roofline", checks, remarks)]


def vllm_015_held_out(reference: Path) -> list[CaseResult]:
    """Fit without a model, judge on it."""
    stages = read_stages(reference)
    dense = [stage for stage in stages if not architecture_of(stage.model).is_moe]
    start = coefficients("vllm-0.15")
    held_out: dict[str, NDArray[np.float64]] = {}
    checks: list[Check] = []
    for model in dict.fromkeys(stage.model for stage in dense):
        fitted = fit_vllm_runs([stage for stage in dense if stage.model != model], start)
        errors = _errors([stage for stage in dense if stage.model == model], fitted)
        held_out |= errors
        checks += _medians(errors, f"runs of {model}", (None, None, None))
    checks = _medians(held_out, "runs, dense models", HELD_OUT_TARGETS) + checks
    mixture = _errors([stage for stage in stages if stage not in dense], start)
    checks += _medians(mixture, "runs of Mixtral", (MOE_E2E, None, None))
    remark = "Mixtral takes part in no fit. Kernels' coefficients are those of the operator tables throughout."
    return [CaseResult("vLLM 0.15 on H100, roofline, leave one model out", checks, [remark])]


def vllm_015_simulated(reference: Path) -> list[CaseResult]:
    """Simulate two of the runs request by request, with scattered arrivals and a prefix cache."""
    used = coefficients("vllm-0.15")
    by_run: dict[str, list[Stage]] = {}
    for stage in read_stages(reference):
        by_run.setdefault(stage.experiment, []).append(stage)
    checks = []
    for name, stages in by_run.items():
        if name[16:] not in SIMULATED:
            continue
        weights = [stage.requests for stage in stages]
        measured = np.average([stage.measured for stage in stages], axis=0, weights=weights)
        simulated = simulated_means(stages, used)
        checks += [
            percent_check(metric, name[16:], "ms", real * 1e3, ours * 1e3, None)
            for metric, real, ours in zip(vllm_runs.METRICS, measured, simulated, strict=True)
        ]
    remark = (
        "The same coefficients in a simulation, with asynchronous scheduling, after a warm-up that fills the prefix "
        "cache: it agrees with the closed form."
    )
    return [CaseResult("vLLM 0.15 on H100, roofline, simulated", checks, [remark])]


def mlenergy(reference: Path) -> list[CaseResult]:
    """Judge the saturated servers of ML.ENERGY, with half and double the assumed prompts, and leave-one-model-out."""
    rows, start = read_rows(reference), coefficients("mlenergy")
    checks = []
    for scale, target in ((1.0, ROW_TARGET), (0.5, None), (2.0, None)):
        prompts = ", ".join(f"{task} {round(n * scale)}" for task, n in mlenergy_runs.PROMPT_TOKENS.items())
        checks += _row_medians(_row_errors(rows, start, scale), f"rows; prompts: {prompts}", target)
    held_out = []
    for model in dict.fromkeys(row.model for row in rows):
        fitted = fit_mlenergy_rows([row for row in rows if row.model != model], start)
        errors = _row_errors([row for row in rows if row.model == model], fitted)
        checks += _row_medians(errors, f"rows of {model}, held out", None)
        held_out.append(errors)
    checks += _row_medians(np.concatenate(held_out), "rows, leave one model out", HELD_OUT_ROW_TARGET)
    remarks = [
        "The data has no prompt lengths and no engine version: one prompt length per task is assumed, the same for all "
        "models. Fitted: the host per step and the sampler per logit; the accelerator's coefficients are those of the "
        "runs of vLLM 0.15.",
    ]
    return [CaseResult("ML.ENERGY, dense models on H100, roofline", checks, remarks)]


def operator_tables(reference: Path) -> list[CaseResult]:
    """Judge the kernels against the tables of aiconfigurator-core, where it is installed."""
    del reference
    folder = tables_folder()
    if folder is None:
        remark = f"Not judged: aiconfigurator-core is not installed and {TABLES_VARIABLE} is not set."
        return [CaseResult("Operator tables, roofline", [], [remark])]
    checks: list[Check] = []
    for system in SYSTEMS:
        for kind in KINDS:
            table = table_of(folder, system, kind)
            if table is None:
                continue
            found = judge_kind(kind, table, family_efficiency(table.device.family))
            target = KERNEL_TARGET if kind.name in JUDGED_KINDS else None
            metric = f"{table.device.name}, {kind.name}"
            checks.append(_error_check(metric, "median over rows", found.median * 100, target))
            checks.append(_error_check(metric, f"without the {found.cached:.0%} cached", found.from_memory * 100, None))
            checks.append(_error_check(metric, "90th percentile", found.p90 * 100, None))
    remarks = [
        "Fitted on the same tables, at most 3,000 rows of each. Rows whose data fits into the last-level cache may be "
        "faster than memory allows, which the roofline never is; a model's weights and KV never fit.",
    ]
    return [CaseResult("Operator tables, roofline", checks, remarks)]


JUDGED_KINDS = ("matrix products, bf16", "attention of prompts, KV in bf16", "attention of decodes, KV in bf16")


def profiled_runs(reference: Path) -> list[CaseResult]:
    """Simulate the two runs on RTX PRO 6000 with the roofline instead of the measured profile."""
    results = []
    for name, run in BENCH_RUNS.items():
        measured = read_bench(reference, name)
        simulated = request_times(run.simulate(reference, edits={"cluster.lss.step": {"model": "roofline"}}))
        checks = [
            percent_check(
                metric,
                "mean",
                "ms",
                statistic_of(getattr(measured, f"{metric}_s"), "mean") * 1e3,
                statistic_of(getattr(simulated, f"{metric}_s"), "mean") * 1e3,
                PROFILED_TARGETS.get(metric),
            )
            for metric in ("ttft", "tpot", "e2e")
        ]
        results.append(CaseResult(f"{name} on RTX PRO 6000, roofline", checks))
    return results


def _errors(stages: Sequence[Stage], used: RunCoefficients) -> Errors:
    models = Models(used)
    return run_errors(stages, models.of, used.front_end_us * 1e-6)


def _medians(errors: Errors, what: str, targets: Sequence[float | None]) -> list[Check]:
    medians = np.median(np.abs(list(errors.values())), axis=0) * 100
    return [
        _error_check(metric, f"median of {len(errors)} {what}", float(median), target)
        for metric, median, target in zip(vllm_runs.METRICS, medians, targets, strict=True)
    ]


def _row_errors(rows: Sequence[Row], used: RunCoefficients, scale: float = 1.0) -> NDArray[np.float64]:
    models = Models(used)
    return np.array([row.predicted(models.of(row), scale) / row.measured - 1 for row in rows])


def _row_medians(errors: NDArray[np.float64], what: str, target: float | None) -> list[Check]:
    medians = np.median(np.abs(errors), axis=0) * 100
    return [
        _error_check(metric, f"median of {len(errors)} {what}", float(median), target)
        for metric, median in zip(mlenergy_runs.METRICS, medians, strict=True)
    ]


def _error_check(metric: str, statistic: str, percent: float, target: float | None) -> Check:
    """Return a check of an error that is one already: measured is 0 by definition."""
    return Check(metric, statistic, "%", 0.0, float(percent), float(percent), target)


ROOFLINE_CASES: tuple[Callable[[Path], list[CaseResult]], ...] = (
    vllm_015_runs,
    vllm_015_held_out,
    vllm_015_simulated,
    mlenergy,
    operator_tables,
    profiled_runs,
)
