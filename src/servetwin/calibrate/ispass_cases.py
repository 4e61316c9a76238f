"""The cases with measured series: throughput (figures 5 and 9 of the ISPASS paper on LLMServingSim), KV memory (7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.case import CaseResult, Check, excess_check, percent_check, points_check
from servetwin.calibrate.compare import SHARES
from servetwin.calibrate.lss_runs import LssRun, token_curve
from servetwin.calibrate.measured import read_series
from servetwin.calibrate.series import TokenCurve, binned_wape, wape
from servetwin.scenario.importers.llmservingsim import LssFlags
from servetwin.scenario.result import Result

ROOT = "llmservingsim/ispass26"
SHARE_TARGETS = dict(zip(SHARES, (2.0, 1.5, 1.5), strict=True))
BIN_S = 3.0
WAPE_EXCESS_POINTS = 0.3
MOE_SHARE_TARGETS = dict.fromkeys(SHARES, 3.5)
TPU_TPOT_PERCENT = 1.0
KV_WAPE_PERCENT = 2.0
HIT_RATE_POINTS = 0.1

_WORKLOAD = "ispass26/workloads/sharegpt_req300_rate10_llama.jsonl"
_SEQUENCES = 256
"""Measured servers of figure 5 allowed at least 192 to 256 sequences."""


@dataclass(frozen=True)
class SeriesCase:
    """A run whose throughput over time was measured: ``<figure>/reference/<series>_throughput.tsv``.

    ``share_targets`` are those of the times of shares of the tokens, in percent; WAPE may exceed LLMServingSim's by
    ``excess_points``.
    """

    title: str
    figure: str
    series: str
    run: LssRun
    share_targets: Mapping[float, float] = field(default_factory=lambda: SHARE_TARGETS)
    excess_points: float = WAPE_EXCESS_POINTS


A6000_MD = SeriesCase(
    "A6000, two instances behind round robin (figure 5, MD)",
    "figure_5/A6000",
    "MD",
    LssRun(
        "ispass26/figure_5/A6000/config/MD_config.json", _WORKLOAD, "profiles-v0", LssFlags(max_num_seqs=_SEQUENCES)
    ),
)
A6000_SD_PC = SeriesCase(
    "A6000, one instance with prefix caching (figure 5, SD+PC)",
    "figure_5/A6000",
    "SD+PC",
    LssRun(
        "ispass26/figure_5/A6000/config/SD+PC_config.json",
        _WORKLOAD,
        "profiles-v0",
        LssFlags(max_num_seqs=_SEQUENCES, enable_prefix_caching=True),
    ),
)
A6000_SM = SeriesCase(
    "A6000, one instance of Phi-mini-MoE (figure 5, SM)",
    "figure_5/A6000",
    "SM",
    LssRun(
        "ispass26/figure_5/A6000/config/SM_config.json",
        "ispass26/workloads/sharegpt_req300_rate10_phi.jsonl",
        "profiles-v0",
        LssFlags(max_num_seqs=_SEQUENCES),
        models="configs/model",
    ),
    MOE_SHARE_TARGETS,
    0.0,
)
TPU_SD = SeriesCase(
    "TPU v6e, one instance (figure 9)",
    "figure_9",
    "SD",
    LssRun("ispass26/figure_9/config/SD_config.json", _WORKLOAD, "profiles-v0", LssFlags(max_num_seqs=_SEQUENCES)),
)
FIGURE_7 = LssRun(
    "ispass26/figure_7/config/SD+PC_config.json",
    "ispass26/workloads/sharegpt_pulse_req50_n6_delay15_pc.jsonl",
    "profiles-v0",
    LssFlags(max_num_seqs=128, enable_prefix_caching=True),
)

WEIGHTS_MIB = 15348.63
"""Weights of Llama-3.1-8B as vLLM counts them (it says 14.99 GiB): figure 7's first sample less 42 blocks."""

SAMPLE_PERIOD_S = 1.0265
"""Figure 7's memory was sampled every 1.0265 s (FORMATS, section 9)."""


def throughput_cases(reference: Path) -> list[CaseResult]:
    """Compare the throughput of figures 5 and 9 over time."""
    results = [throughput_case(reference, case)[0] for case in (A6000_MD, A6000_SD_PC, A6000_SM)]
    return [*results, tpu_case(reference)]


def tpu_case(reference: Path) -> CaseResult:
    """Compare figure 9: throughput over time, and the means that were measured beside it."""
    case, result = throughput_case(reference, TPU_SD)
    lines = (reference / ROOT / "figure_9" / "reference" / "SD_latency.tsv").read_text(encoding="utf-8").splitlines()
    measured = dict(zip(lines[0].split("\t"), map(float, lines[1].split("\t")), strict=True))
    means = {name: result.summary[f"{name}_s"]["mean"] * 1e3 for name in ("tpot", "itl", "ttft")}
    targets = {"tpot": TPU_TPOT_PERCENT}
    checks = [
        percent_check(name, "mean", "ms", measured[f"mean_{name}_ms"], means[name], targets.get(name)) for name in means
    ]
    remark = (
        "TTFT is reported without a target: at this load it is a prefill and the end of the step before it, 40 to "
        "60 ms, and the measured one contains the client's and the server's own time per request, which no table has."
    )
    return CaseResult(case.title, [*case.checks, *checks], [*case.remarks, remark])


def throughput_case(reference: Path, case: SeriesCase) -> tuple[CaseResult, Result]:
    """Return a run's throughput over time beside the measured one, and the run."""
    result = case.run.simulate(reference)
    measured, lss = measured_curves(reference, case)
    ours = token_curve(result)
    return CaseResult(f"{case.title}, default mode", series_checks(case, measured, lss, ours)), result


def measured_curves(reference: Path, case: SeriesCase) -> tuple[TokenCurve, TokenCurve]:
    """Return the measured tokens over time, and LLMServingSim's."""
    folder = reference / ROOT / case.figure
    measured, lss = (_curve(folder / kind / f"{case.series}_throughput.tsv") for kind in ("reference", "parsed"))
    return measured, lss


def series_checks(case: SeriesCase, measured: TokenCurve, lss: TokenCurve, ours: TokenCurve) -> list[Check]:
    """Return the times at which shares of the tokens are out, and WAPE beside LLMServingSim's own."""
    checks = [
        percent_check(
            "tokens out", f"{share:.0%}", "s", measured.time_of_share(share), ours.time_of_share(share), target
        )
        for share, target in case.share_targets.items()
    ]
    theirs, own = (binned_wape(measured, curve, BIN_S) * 100 for curve in (lss, ours))
    name = f"WAPE in {BIN_S:g} s bins, LLMServingSim's and ours"
    return [*checks, excess_check(name, theirs, own, case.excess_points)]


def _curve(path: Path) -> TokenCurve:
    series = read_series(path)
    return TokenCurve.from_rates(series.end_s, series.columns["output_tokens_per_s"])


def kv_case(reference: Path) -> list[CaseResult]:
    """Compare figure 7: KV memory over time, and the final prefix hit rate."""
    result = FIGURE_7.simulate(reference, edits={"output": {"interval_s": 0.05}})
    measured = read_series(reference / ROOT / "figure_7" / "reference" / "SD+PC.tsv")
    real_mib = measured.columns["gpu_mem_mb"] - WEIGHTS_MIB
    offset_s, error = best_offset(real_mib, *_kv_mib(result))
    hits = measured.columns["prefix_hit_rate"][-1] * 100, result.summary["kv"]["prefix_hit_rate"] * 100
    ours_mib = float(np.interp(offset_s + SAMPLE_PERIOD_S * (len(real_mib) - 1), *_kv_mib(result)))
    checks = [
        Check(
            "used + cached KV", "WAPE over time", "MiB at the end", real_mib[-1], ours_mib, error * 100, KV_WAPE_PERCENT
        ),
        points_check("prefix hit rate", "final", *hits, HIT_RATE_POINTS),
    ]
    remark = f"Aligned: the first sample at {offset_s:.2f} s, then one every {SAMPLE_PERIOD_S} s."
    return [CaseResult("A6000, pulses with prefix caching (figure 7), default mode", checks, [remark])]


def _kv_mib(result: Result) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    timeline = result.timeline
    kv_bytes = np.asarray(timeline["kv_used_bytes"], dtype=np.float64) + timeline["kv_cached_bytes"]
    return np.asarray(timeline["time_s"], dtype=np.float64), np.asarray(kv_bytes / 2**20)


def best_offset(
    measured: NDArray[np.float64], time_s: NDArray[np.float64], simulated: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the time of the first sample (to 0.05 s, within 3 s) at which WAPE is least, and that WAPE."""
    samples = SAMPLE_PERIOD_S * np.arange(len(measured))
    offsets = np.arange(0.0, 3.0, 0.05)
    errors = [wape(measured, np.interp(offset + samples, time_s, simulated)) for offset in offsets]
    best = int(np.argmin(errors))
    return float(offsets[best]), errors[best]
