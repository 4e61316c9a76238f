"""The cases of collectives: the formula against the NCCL tables and vLLM's all-reduce of aiconfigurator-core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from servetwin.calibrate.case import CaseResult, Check
from servetwin.calibrate.collectives_fit import Residuals, residuals_of
from servetwin.calibrate.collectives_tables import FITTED_ON, SYSTEM_LINKS, custom_rows, judged, measured_rows
from servetwin.network.aiconfigurator import tables_folder
from servetwin.network.costs import link_costs

TARGET = 15.0
JUDGED = ("h100_sxm",)
HELD_OUT = ("h200_sxm", "b300_sxm", "gb200", "gb300")
OTHERS = ("a100_sxm", "b200_sxm", "rtx_pro_6000_server", "l40s")


def collective_tables(reference: Path) -> list[CaseResult]:
    """Judge the formula by the tables of each system; empty where the package is not there."""
    folder = tables_folder()
    if folder is None:
        return []
    systems = [system for system in (*JUDGED, *HELD_OUT, *OTHERS) if (folder / system / "comm").is_dir()]
    return [*(_system_case(folder, system) for system in systems), _transfer_case(folder)]


def _system_case(folder: Path, system: str) -> CaseResult:
    target = TARGET if system in JUDGED else None
    checks = [
        check
        for row in residuals_of(judged(system), measured_rows(folder, system))
        for check in _checks("NCCL", row, target)
    ]
    own = custom_rows(folder, system)
    if own:
        checks += _checks("vLLM", residuals_of(judged(system, nccl_only=False), own)[-1], None)
    fitted = "fitted on this table" if system in FITTED_ON.values() else "held out: fitted on another system"
    remarks = [f"1 KiB to 256 MiB, 8- and 16-bit tensors, links {SYSTEM_LINKS[system]}; coefficients {fitted}."]
    return CaseResult(f"Collectives, {system}", checks, remarks)


def _transfer_case(folder: Path) -> CaseResult:
    """Judge the coefficients of H100 on systems with other links, with only the bandwidth changed."""
    checks: list[Check] = []
    for system in ("a100_sxm", "b200_sxm"):
        total = residuals_of(judged(system, link_costs("nvlink4")), measured_rows(folder, system))[-1]
        checks += _checks(f"NCCL, {system}", total, None)
    return CaseResult("Collectives, H100's coefficients on other systems", checks)


def _checks(source: str, row: Residuals, target: float | None) -> Sequence[Check]:
    what = row.operation if not row.ranks else f"{row.operation}, {row.ranks} ranks"
    return (
        Check(f"{source}: {what}", f"median of {row.rows}", "%", 0.0, row.median * 100, row.median * 100, target),
        Check(f"{source}: {what}", "p90", "%", 0.0, row.p90 * 100, row.p90 * 100, None),
    )


COLLECTIVES_CASES: tuple[Callable[[Path], list[CaseResult]], ...] = (collective_tables,)
