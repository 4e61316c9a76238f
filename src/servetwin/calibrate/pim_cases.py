"""Attention in memory against LLMServingSim's own predictions: two small files request by request, and figure 10."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from servetwin.calibrate.case import CaseResult, Check, percent_check
from servetwin.calibrate.lss_runs import LssRun, request_times
from servetwin.scenario.importers.llmservingsim import LssFlags
from servetwin.scenario.result import Result

REQUEST_PERCENT = 3.0
FIGURE_PERCENT = 5.0

_CLUSTER = "configs/cluster/single_node_pim_instance.json"
_TRACE = "workloads/example_trace.jsonl"

PREDICTED_PIM = {
    "pim": LssRun(_CLUSTER, _TRACE, flags=LssFlags(num_reqs=10, enable_attn_offloading=True)),
    "pim_sub_batch": LssRun(
        _CLUSTER,
        _TRACE,
        flags=LssFlags(num_reqs=10, enable_attn_offloading=True, enable_sub_batch_interleaving=True),
    ),
}


def _figure_run(config: str, offloading: bool = False, interleaving: bool = False) -> LssRun:
    return LssRun(
        f"ispass26/figure_10/config/{config}_config.json",
        "ispass26/workloads/fixed_in128_out512_req256_rate10.jsonl",
        "profiles-v0",
        LssFlags(
            max_num_seqs=256,
            enable_prefix_caching=False,
            enable_attn_offloading=offloading,
            enable_sub_batch_interleaving=interleaving,
        ),
    )


FIGURE_10 = {
    "gpu-only": _figure_run("gpu_only"),
    "pim": _figure_run("pim", offloading=True),
    "pim-sbi": _figure_run("pim", offloading=True, interleaving=True),
}
"""LLMServingSim's study of an A6000 beside HBM2 that computes; no hardware was measured."""

NIC_IDLE_W = 11.2
"""The network card's power in the study's configs: the only component whose energy is power times the run's time."""

TOKENS = 131_072
"""Generated in each run of the study."""

MODES: Mapping[str, Literal["lss", "default"]] = {"`--mode lss`": "lss", "default mode": "default"}

_STEP = "cluster.lss.step"

CAUSES: Mapping[str, Mapping[str, Any]] = {
    "attention of decodes on the GPU too beside prompts": {f"{_STEP}.decodes_again": False},
    "attention of prompts and decodes one after the other": {f"{_STEP}.overlap": True},
    "halves in every step": {f"{_STEP}.interleaving": "auto"},
}
"""What mode lss repeats, each undone by its key, in the order in which `_chain` undoes them."""


HOW_TABLES_ARE_READ = "how tables are read, host I/O"

REMAINDER = f"coefficients of unknown origin, {HOW_TABLES_ARE_READ}"
"""What no key undoes alone."""


def predicted_pim(reference: Path) -> list[CaseResult]:
    """Compare mode lss with LLMServingSim's predictions, request by request."""
    return [_predicted(reference, name, run) for name, run in PREDICTED_PIM.items()]


def _predicted(reference: Path, name: str, run: LssRun) -> CaseResult:
    times = request_times(run.simulate(reference, "lss"))
    with (reference / "llmservingsim" / "predicted" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["request id"]))
    checks: list[Check] = []
    for i, row in enumerate(rows):
        tpot_s = (times.finish_s[i] - times.first_token_s[i]) / (times.output_tokens[i] - 1)
        for metric, lss_ns, ours_s in (("ttft", row["TTFT"], times.ttft_s[i]), ("tpot", row["TPOT"], tpot_s)):
            checks.append(percent_check(metric, f"request {i}", "ms", int(lss_ns) / 1e6, ours_s * 1e3, REQUEST_PERCENT))
    worst = max(checks, key=lambda check: abs(check.error))
    return CaseResult(
        f"predicted/{name}.csv, `--mode lss`, every request", checks, [f"The worst is off {worst.error:+.4f} %."]
    )


def figure_10(reference: Path) -> list[CaseResult]:
    """Compare throughput and energy of the study with mode lss, and with default mode beside it."""
    return [_figure_10(reference, name, run) for name, run in FIGURE_10.items()]


def study_energies_j(reference: Path, name: str) -> dict[str, float]:
    """Return the energies of a run of the study by its own names of components."""
    path = reference / "llmservingsim" / "ispass26" / "figure_10" / "parsed" / "component_energy.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        return {row["component"]: float(row[name]) for row in csv.DictReader(file, delimiter="\t")}


def _figure_10(reference: Path, name: str, run: LssRun) -> CaseResult:
    theirs = study_energies_j(reference, name)
    study = TOKENS / (theirs["NIC"] / NIC_IDLE_W)
    results = {what: run.simulate(reference, mode) for what, mode in MODES.items()}
    checks = []
    for what, result in results.items():
        target = FIGURE_PERCENT if MODES[what] == "lss" else None
        checks.append(percent_check("throughput", what, "token/s", study, _throughput(result), target))
    for what, result in results.items():
        target = FIGURE_PERCENT if MODES[what] == "lss" else None
        ours = _energy_j(result) / TOKENS
        checks.append(percent_check("energy per token", what, "J", sum(theirs.values()) / TOKENS, ours, target))
    lss, default = results.values()
    remarks = _chain(reference, run, name, lss, default)
    return CaseResult(f"Figure 10, {name}: LLMServingSim's study of an A6000 and HBM2 that computes", checks, remarks)


def _chain(reference: Path, run: LssRun, name: str, lss: Result, default: Result) -> list[str]:
    """Return by how much throughput and energy per token change as one of the causes after another is undone."""
    edits: dict[str, Any] = {}
    last, said = lss, []
    for cause, change in CAUSES.items():
        if name == "gpu-only" or (name == "pim" and "interleaving" in next(iter(change))):
            continue
        edits |= change
        now = run.simulate(reference, "lss", edits)
        said.append(_change(cause, last, now))
        last = now
    said.append(_change(REMAINDER if edits else HOW_TABLES_ARE_READ, last, default))
    heading = "From `--mode lss` to default mode, undoing one after the other (throughput, energy per token)"
    return [f"{heading}: {'; '.join(said)}."]


def _change(cause: str, before: Result, after: Result) -> str:
    throughput = _throughput(after) / _throughput(before) - 1
    energy = _energy_j(after) / _energy_j(before) - 1
    return f"{cause} {throughput * 100:+.1f} %, {energy * 100:+.1f} %"


def _energy_j(result: Result) -> float:
    assert result.energy is not None
    return result.energy.total_j


def _throughput(result: Result) -> float:
    return float(result.summary["throughput"]["output_tokens_per_s"])
