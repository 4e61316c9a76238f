"""Which tables of collectives there are, what they are fitted on and judged by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from servetwin.calibrate.collectives_fit import between, model
from servetwin.core.errors import InputError
from servetwin.network.aiconfigurator import CollectiveRow, read_custom_all_reduce, read_nccl
from servetwin.network.base import Collectives
from servetwin.network.costs import CollectiveCosts
from servetwin.network.presets import link_level
from servetwin.network.topology import Level

KIB, MIB = 2**10, 2**20

SYSTEM_LINKS: Mapping[str, str] = {
    "h100_sxm": "nvlink4",
    "h200_sxm": "nvlink4",
    "a100_sxm": "nvlink3",
    "b200_sxm": "nvlink5",
    "b300_sxm": "nvlink5",
    "gb200": "nvlink5",
    "gb300": "nvlink5",
    "rtx_pro_6000_server": "pcie_gen5",
    "l40s": "pcie_gen4",
}
"""The package's systems by the class of their links."""

FITTED_ON: Mapping[str, str] = {
    "nvlink4": "h100_sxm",
    "nvlink3": "a100_sxm",
    "nvlink5": "b200_sxm",
    "pcie": "rtx_pro_6000_server",
}
"""Coefficients by the system that they are fitted on."""


def level_of(system: str) -> Level:
    """Return a system's node of eight, with the coefficients in use; those fitted later take their place."""
    name = SYSTEM_LINKS[system]
    return link_level(name, 8)


def judged(system: str, costs: CollectiveCosts | None = None, *, nccl_only: bool = True) -> Collectives:
    """Return the formula for a system, with given coefficients or those in use for its links."""
    level = level_of(system)
    return model(level, costs or level.costs, nccl_only=nccl_only)


def fitted_rows(folder: Path, system: str) -> list[CollectiveRow]:
    """Return the NCCL rows that coefficients are fitted to: 16-bit tensors from 1 KiB."""
    return [row for row in between(read_nccl(folder, system), KIB, 1024 * MIB) if row.dtype == "half"]


def measured_rows(folder: Path, system: str) -> list[CollectiveRow]:
    """Return the NCCL rows that the formula is judged by: 1 KiB to 256 MiB, of 8 and 16 bits."""
    return between(read_nccl(folder, system), KIB, 256 * MIB)


def custom_rows(folder: Path, system: str) -> list[CollectiveRow]:
    """Return the rows of vLLM's all-reduce among as many ranks as its own kernel serves there; none without a table."""
    try:
        rows = read_custom_all_reduce(folder, system)
    except InputError:
        return []
    return [row for row in between(rows, 0, 256 * MIB) if row.ranks <= level_of(system).one_kernel_ranks]
