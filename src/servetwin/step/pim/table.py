"""Results of an external cycle-level simulator as attention in memory: a CSV over requests and mean context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from servetwin.core.errors import InputError
from servetwin.step.pim.base import Decodes, Floats
from servetwin.step.profile.csv_table import Column, read_table
from servetwin.step.profile.curves import complete_grid
from servetwin.step.profile.decode_sheet import DecodeSheet
from servetwin.step.profile.grids import monotone
from servetwin.step.work_columns import StepColumns

JOULES_PER_NJ = 1e-9

COLUMNS = (Column("requests", "count", 1), Column("context_tokens", "count"), Column("time_ns", "ns"))


class TableAttention:
    """Time and energy of one layer's attention by the number of decodes and their mean context.

    Linear between samples, along the last slopes beyond them, never falling. A complete grid is needed.

    Parameters
    ----------
    path
        CSV with columns ``requests, context_tokens, time_ns`` and, if wanted, ``energy_nj``; all per layer and rank.
    num_layers
        Layers of the model.
    capacity_bytes
        Room for KV, or None.
    tensor_parallel_size
        Ranks, each of which takes the table's energy.

    Raises
    ------
    InputError
        For a file, column, value or point of the grid that is missing or wrong.
    """

    needs: frozenset[str] = frozenset()
    idle_w: float | None = None

    def __init__(
        self, path: Path, num_layers: int, capacity_bytes: int | None = None, tensor_parallel_size: int = 1
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self._layers = num_layers
        self._ranks = tensor_parallel_size
        self._times = _sheet(path, "time_ns")
        self._energies = _sheet(path, "energy_nj") if "energy_nj" in _header(path) else None

    def step_ns(self, decodes: Decodes) -> float:
        """See `PimAttention`."""
        return self._layers * self._times.curve(decodes.num).at(decodes.kv_tokens) if decodes.num else 0.0

    def prompts_ns(self, prefills: Sequence[tuple[int, int]]) -> float:
        """Return 0: the table does not say."""
        return 0.0

    def steps_j(self, steps: StepColumns) -> Floats:
        """See `PimAttention`; 0 where the table has no energies."""
        joules = np.zeros(len(steps.num_decodes))
        if self._energies is None:
            return joules
        for num in np.unique(steps.num_decodes[steps.num_decodes > 0]):
            rows, curve = np.flatnonzero(steps.num_decodes == num), self._energies.curve(int(num))
            joules[rows] = [curve.at(round(kv_tokens)) for kv_tokens in steps.decode_kv_tokens[rows].tolist()]
        return joules * (self._layers * self._ranks * JOULES_PER_NJ)

    def link_bytes(self, steps: StepColumns) -> Floats:
        """Return 0: the table's energies contain them."""
        return np.zeros(len(steps.num_decodes))


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            return [name.strip() for name in file.readline().split(",")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None


def _sheet(path: Path, values: str) -> DecodeSheet:
    columns = (*COLUMNS[:2], Column(values, "ns"))
    grid = complete_grid(read_table(path, columns, extra=True), "requests", "context_tokens", values)
    return DecodeSheet(grid.first, grid.second, monotone(np.asarray(grid.time_ns)))
