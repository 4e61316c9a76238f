"""Reading the measured operator tables of the PyPI package ``aiconfigurator-core`` (Apache-2.0, NVIDIA).

Layout: ``systems/data/<system>/<kind>/<framework>/<version>/<table>.parquet``; latencies in milliseconds. Only vLLM's
tables are read, the newest version of each. Nothing of them enters this repository but fitted coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError
from servetwin.hardware.base import Device
from servetwin.hardware.catalogue import load_device
from servetwin.network.aiconfigurator import version_of

SYSTEMS = {
    "h100_sxm": "H100-SXM",
    "h200_sxm": "H200-SXM",
    "b200_sxm": "B200",
    "a100_sxm": "A100-SXM-80GB",
    "l40s": "L40S",
    "rtx_pro_6000_server": "RTXPRO6000",
}
"""Systems of the package by the device of our catalogue."""

_FRAMEWORK = "vllm"


@dataclass(frozen=True)
class Table:
    """One table of a device: columns of equal length, and measured times in microseconds."""

    device: Device
    columns: dict[str, NDArray[np.float64]]
    labels: dict[str, NDArray[np.str_]]
    measured_us: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.measured_us)

    def only(self, keep: NDArray[np.bool_]) -> Table:
        """Return the rows that are to be kept."""
        return Table(
            self.device,
            {name: values[keep] for name, values in self.columns.items()},
            {name: values[keep] for name, values in self.labels.items()},
            self.measured_us[keep],
        )


def read_table(folder: Path, system: str, kind: str, table: str) -> Table | None:
    """Return one table of a system, rows with equal columns merged into their median; None if there is none.

    Parameters
    ----------
    folder
        See `servetwin.network.aiconfigurator.tables_folder`.
    system
        A key of `SYSTEMS`.
    kind, table
        ``gemm`` and ``gemm_perf``, for example.

    Raises
    ------
    InputError
        If the folder has no such system.
    """
    if not (folder / system).is_dir():
        raise InputError(f"no tables of {system}; give the package's systems/data", where=str(folder))
    paths = sorted((folder / system / kind / _FRAMEWORK).glob(f"*/{table}.parquet"), key=version_of)
    if not paths:
        return None
    return _merged(load_device(SYSTEMS[system]), paths[-1])


_NOT_KEYS = ("framework", "version", "device", "op_name", "latency", "power", "power_limit")


def _merged(device: Device, path: Path) -> Table:
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    latency = table.column("latency").to_numpy().astype(np.float64)
    names = [name for name in table.column_names if name not in _NOT_KEYS]
    raw = {name: np.asarray(table.column(name).to_pylist()) for name in names}
    texts = {name for name, values in raw.items() if values.dtype.kind not in "iufb"}
    codes = [
        np.unique(values.astype(str) if name in texts else values, return_inverse=True)[1]
        for name, values in raw.items()
    ]
    order = np.lexsort(codes)
    changed = np.any([np.diff(code[order]) != 0 for code in codes], axis=0)
    starts = np.concatenate(([0], np.flatnonzero(changed) + 1))
    groups = np.split(latency[order], starts[1:])
    medians = np.array([np.median(group) for group in groups])
    kept = order[starts]
    good = np.isfinite(medians) & (medians > 0)
    return Table(
        device,
        {name: values[kept][good].astype(np.float64) for name, values in raw.items() if name not in texts},
        {name: raw[name][kept][good].astype(str) for name in texts},
        medians[good] * 1e3,
    )
