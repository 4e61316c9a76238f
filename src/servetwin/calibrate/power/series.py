"""Measured power over time: files with ``time_s`` and a column of watts for the machine, or one per accelerator."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.core.errors import InputError

Floats = NDArray[np.float64]

NODE_COLUMNS = ("node_w", "power_w", "server_w")
"""Names of the whole machine's power, the first that is there."""

ACCELERATOR_PREFIX = "gpu"


@dataclass(frozen=True)
class PowerSeries:
    """Readings of a meter.

    Attributes
    ----------
    time_s
        Ascending, shape ``(n,)``.
    node_w
        Of the whole machine, or None.
    accelerators_w
        Of all accelerators together, or None.
    """

    time_s: Floats
    node_w: Floats | None
    accelerators_w: Floats | None

    def until(self, end_s: float) -> PowerSeries:
        """Return the readings before a time."""
        return self._where(self.time_s < end_s)

    def since(self, start_s: float) -> PowerSeries:
        """Return the readings from a time on."""
        return self._where(self.time_s >= start_s)

    def _where(self, chosen: NDArray[np.bool_]) -> PowerSeries:
        node, accelerators = (None if w is None else w[chosen] for w in (self.node_w, self.accelerators_w))
        return PowerSeries(self.time_s[chosen], node, accelerators)


def read_power_series(path: Path) -> PowerSeries:
    """Read a CSV, or a TSV (``.tsv``). Columns: ``time_s``, and one of `NODE_COLUMNS` or ``gpu0_w``, ``gpu1_w``, ...

    Raises
    ------
    InputError
        For a missing file or column, a cell that is no number, negative power, or times that do not ascend.
    """
    if not path.is_file():
        raise InputError("no such file; a series has columns time_s and power_w (or gpu0_w, ...)", where=str(path))
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        names = list(reader.fieldnames or [])
        rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    node = next((name for name in NODE_COLUMNS if name in names), None)
    gpus = [name for name in names if name.startswith(ACCELERATOR_PREFIX) and name.endswith("_w")]
    if "time_s" not in names or (node is None and not gpus):
        raise InputError(
            f"columns {', '.join(names) or 'none'}; needed: time_s, and one of {', '.join(NODE_COLUMNS)}, gpu0_w, ...",
            where=f"{path}:1",
        )
    wanted = ["time_s", *([node] if node else []), *gpus]
    values = np.array([[_watts(row.get(name), name, where) for name in wanted] for where, row in rows])
    if len(values) < 3 or np.any(np.diff(values[:, 0]) <= 0):
        raise InputError("at least three rows with ascending times are needed", where=str(path))
    columns = values.T
    node_w = columns[1] if node else None
    return PowerSeries(columns[0], node_w, columns[len(wanted) - len(gpus) :].sum(axis=0) if gpus else None)


def _watts(text: str | None, name: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not isfinite(value) or (value < 0 and name != "time_s"):
        raise InputError(f"{name} is {text!r}; a number of at least 0 is needed", where=where)
    return value
