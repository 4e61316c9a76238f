"""Fits the roofline's coefficients: ``python -m servetwin.calibrate.fit_roofline``. Needs ``servetwin[fit]`` (SciPy).

1. Per family of devices, the coefficients of kernels, to the operator tables of ``aiconfigurator-core`` 0.12.
2. On H100, what only runs show (cost per layer, host, front end), to the dense models of ``reference/vllm-0.15-h100``,
   with the collectives of ``servetwin.network``; other families take the cost per layer from there.
3. The share of bandwidth of decodes beside a prompt, to ``reference/llmservingsim``'s profiles of an RTX PRO 6000.
4. The host of another server, to ``reference/mlenergy``; its kernels are those of step 2.

Deterministic: the same data give the same files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from servetwin.calibrate.accuracy import reference_folder
from servetwin.calibrate.roofline.kernel_fit import KernelErrors, fit_family
from servetwin.calibrate.roofline.mixed_fit import fit_mixed
from servetwin.calibrate.roofline.mlenergy_runs import read_rows
from servetwin.calibrate.roofline.run_fit import RunCoefficients, fit_mlenergy_rows, fit_vllm_runs
from servetwin.calibrate.roofline.vllm_runs import read_stages
from servetwin.core.errors import InputError
from servetwin.llm.catalogue import load_model
from servetwin.network.aiconfigurator import TABLES_VARIABLE, tables_folder
from servetwin.step.efficiency import FOLDER, Efficiency
from servetwin.step.host import HOSTS, HostOverhead

FAMILIES: Mapping[str, Sequence[str]] = {
    "hopper": ("h100_sxm", "h200_sxm"),
    "ampere": ("a100_sxm",),
    "ada": ("l40s",),
    "blackwell": ("b200_sxm",),
    "blackwell_rtx": ("rtx_pro_6000_server",),
}
"""Families of our devices, and the systems of the package whose tables they are fitted to."""

RUNS_FAMILY = "hopper"
FROM_RUNS = ("layer_us",)
RING_SHARE = 0.33
"""Of a plain ring over a family's scale-up links: what all-reduces of some hundred kilobytes reach of NVLink 4. Where
the links' protocols are known, collectives count in full."""

WITHOUT_SCALE_UP = ("ada", "blackwell_rtx")
"""Their devices talk over PCIe, for which the link's class states what messages reach: all of it counts."""

TABLES_SOURCE = "operator tables of aiconfigurator-core 0.12.0 (PyPI, Apache-2.0), vLLM, systems: "
MIXED_FAMILY = "blackwell_rtx"
FLASH_ATTENTION_2 = ("ada", "ampere", "blackwell_rtx")
"""Their attention over batches of decodes and prompts is FlashAttention 2, which is slow at it."""

MIXED_SOURCE = "mixed_bandwidth: LLMServingSim's measured attention on RTX PRO 6000"
RUNS_SOURCE = "9 runs of vLLM 0.15.1 on H100, dense models (inference-sim/training)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write the files, and report the errors."""
    parser = argparse.ArgumentParser(description="Fit the roofline's coefficients to measured kernels and runs.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the coefficients")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), help="families to fit")
    options = parser.parse_args(arguments)
    folder = tables_folder()
    if folder is None:
        raise InputError(f"install aiconfigurator-core, or set {TABLES_VARIABLE} to its systems/data")
    for family, efficiency in fit_all(folder, reference_folder(), options.families).items():
        write_efficiency(options.output / f"{family}.yaml", efficiency, fitted_on(family))
    return 0


def fit_all(folder: Path, reference: Path, families: Sequence[str]) -> dict[str, Efficiency]:
    """Return the coefficients of families, fitted to tables and runs."""
    found: dict[str, Efficiency] = {}
    for family in families:
        found[family], errors = fit_family(folder, FAMILIES[family], Efficiency())
        _report(errors)
    if RUNS_FAMILY in found:
        runs = fit_runs(reference, found[RUNS_FAMILY])
        for family, efficiency in found.items():
            found[family] = efficiency.changed({name: getattr(runs.efficiency, name) for name in FROM_RUNS})
        found[RUNS_FAMILY] = runs.efficiency
    for family in found:
        share = 1.0 if family in WITHOUT_SCALE_UP else RING_SHARE
        found[family] = found[family].changed({"collective_bandwidth": share})
    if MIXED_FAMILY in found:
        share = fit_mixed(reference, found[MIXED_FAMILY])
        for family in set(FLASH_ATTENTION_2) & set(found):
            found[family] = found[family].changed({"mixed_bandwidth": share})
    return found


def fit_runs(reference: Path, kernels: Efficiency) -> RunCoefficients:
    """Return the coefficients fitted to the runs, given those of the kernels; report both servers' hosts."""
    dense = [stage for stage in read_stages(reference) if not load_model(stage.model).is_moe]
    runs = fit_vllm_runs(dense, RunCoefficients(kernels, HostOverhead(300.0), 7000.0))
    other = fit_mlenergy_rows(read_rows(reference), RunCoefficients(runs.efficiency, HostOverhead(1000.0, 0.0, 0.3)))
    for name, fitted in (("vllm-0.15", runs), ("mlenergy", other)):
        print(f"{name}: {fitted.host}, front end {fitted.front_end_us:.0f} us; in use: {HOSTS[name]}", file=sys.stderr)
    return runs


def fitted_on(family: str) -> list[str]:
    """Return the data that a family's coefficients come from."""
    runs = RUNS_SOURCE if family == RUNS_FAMILY else f"{', '.join(FROM_RUNS)}: {RUNS_SOURCE}"
    mixed = [MIXED_SOURCE] if family in FLASH_ATTENTION_2 else []
    return [TABLES_SOURCE + ", ".join(FAMILIES[family]), runs, *mixed]


def write_efficiency(path: Path, efficiency: Efficiency, sources: Sequence[str]) -> None:
    """Write a family's file: its sources, and each coefficient with unit, bounds and meaning."""
    lines = ["# Written by python -m servetwin.calibrate.fit_roofline; see docs/roofline.md.", "fitted_on:"]
    lines += [f'  - "{source}"' for source in sources]
    lines.append("coefficients:")
    values = asdict(efficiency)
    for item in fields(Efficiency):
        about = item.metadata
        note = f"{about['unit']}, {about['low']:g} to {about['high']:g}. {about['meaning']}"
        lines.append(f"  {item.name}: {values[item.name]:g}  # {note}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _report(errors: Sequence[KernelErrors]) -> None:
    for row in errors:
        print(
            f"{row.device}: {row.kind}: median {row.median:.1%}, p90 {row.p90:.1%}, bias {row.bias:+.1%} "
            f"({row.rows} rows; {row.from_memory:.1%} without the {row.cached:.0%} that may come from a cache)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
