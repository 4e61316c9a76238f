"""Fitting the coefficients of kernels to operator tables: least squares of the logarithm of time, outliers damped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.roofline.kernel_times import KINDS, Kind, Times
from servetwin.calibrate.roofline.tables import Table, read_table
from servetwin.step.efficiency import Efficiency

ROWS = 3000
"""Rows of a table that take part in a fit, drawn by a fixed seed; all are judged."""

CACHE_MIB = {"H100-SXM": 50, "H200-SXM": 50, "A100-SXM-80GB": 40, "L40S": 96, "B200": 126, "RTXPRO6000": 128}
"""Size of the last-level cache, from the makers' white papers and data sheets."""

CACHED_FROM = 0.2
"""Data that fits into the cache counts as served from it where reading it from memory takes this part of the time."""

DAMPED_FROM = 0.1
"""Errors (of the logarithm) from which on a row counts less than its square: tables hold rows that run from the cache,
faster than the memory's bandwidth, and rows of badly chosen kernels."""


@dataclass(frozen=True)
class KernelErrors:
    """Relative errors of the roofline against one table.

    Attributes
    ----------
    cached
        Share of rows that may have been served from the cache: a model's weights and KV are far larger than that.
    from_memory
        The median error of the others.
    """

    kind: str
    device: str
    rows: int
    median: float
    p90: float
    bias: float
    cached: float
    from_memory: float


def table_of(folder: Path, system: str, kind: Kind) -> Table | None:
    """Return the rows of ``kind`` that were measured on a system; None if there are none."""
    table = read_table(folder, system, kind.folder, kind.table)
    if table is None:
        return None
    table = _with_head_dim(table) if kind.folder == "attention" else table
    table = table.only(kind.keep(table))
    return table if len(table) else None


def _with_head_dim(table: Table) -> Table:
    """Return the table with heads of 128 elements where it does not say (A100)."""
    if "head_dim" in table.columns:
        return table
    columns = {**table.columns, "head_dim": np.full(len(table), 128.0)}
    return Table(table.device, columns, table.labels, table.measured_us)


def bounds_of(names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return the least and the greatest value that each coefficient may have."""
    limits = {item.name: (item.metadata["low"], item.metadata["high"]) for item in fields(Efficiency)}
    return [limits[name][0] for name in names], [limits[name][1] for name in names]


PERFECT = Efficiency(
    **{item.name: item.metadata["low"] if item.metadata["unit"] == "us" else 1.0 for item in fields(Efficiency)}
)
"""A device that reaches its data sheet."""


def fit_kind(kind: Kind, tables: Sequence[Table], start: Efficiency) -> Efficiency:
    """Return ``start`` with the coefficients of ``kind`` fitted to the tables of one family of devices."""
    from scipy.optimize import least_squares  # type: ignore[import-untyped]

    if not kind.coefficients:
        return start
    samples = [_sample(_from_memory(kind, table)) for table in tables]
    predicted = [kind.times(table) for table in samples]
    weights = [1 / np.sqrt(len(table)) for table in samples]

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        efficiency = start.changed(dict(zip(kind.coefficients, values.tolist(), strict=True)))
        parts = [
            weight * _damped(np.log(times(efficiency) / table.measured_us))
            for weight, times, table in zip(weights, predicted, samples, strict=True)
        ]
        return np.concatenate(parts)

    low, high = bounds_of(kind.coefficients)
    first = np.clip([getattr(start, name) for name in kind.coefficients], low, high)
    found = least_squares(
        residuals, first, bounds=(low, high), x_scale=np.maximum(np.abs(first), 0.1), max_nfev=40, diff_step=1e-3
    )
    return start.changed({name: round(float(x), 4) for name, x in zip(kind.coefficients, found.x, strict=True)})


def _from_memory(kind: Kind, table: Table) -> Table:
    """Return the rows that are slower than the data sheet allows: others were served from the cache.

    A model's weights and KV cache are far larger than any cache, so that these rows say nothing about serving.
    """
    return table.only(~_cached(kind, table))


def _cached(kind: Kind, table: Table) -> NDArray[np.bool_]:
    """Return which rows may have been served from the cache: their data fits, and reading it counts in their time."""
    data_us = kind.times(table)(PERFECT)
    cache_bytes = CACHE_MIB.get(table.device.name, 0) * 2**20
    fits = data_us * 1e-6 * table.device.memory_bandwidth_bytes_per_s < cache_bytes
    return np.asarray((fits & (data_us > CACHED_FROM * table.measured_us)) | (data_us > table.measured_us))


def _damped(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return residuals whose squares are a soft absolute value (scipy's ``soft_l1``)."""
    scaled = errors / DAMPED_FROM
    result: NDArray[np.float64] = np.sign(errors) * DAMPED_FROM * np.sqrt(2 * (np.sqrt(1 + scaled**2) - 1))
    return result


def _sample(table: Table) -> Table:
    if len(table) <= ROWS:
        return table
    chosen = np.sort(np.random.default_rng(0).permutation(len(table))[:ROWS])
    keep = np.zeros(len(table), dtype=bool)
    keep[chosen] = True
    return table.only(keep)


def judge_kind(kind: Kind, table: Table, efficiency: Efficiency) -> KernelErrors:
    """Return the errors over all rows of a table."""
    times: Times = kind.times(table)
    errors = times(efficiency) / table.measured_us - 1
    cached = _cached(kind, table)
    return KernelErrors(
        kind.name,
        table.device.name,
        len(table),
        float(np.median(np.abs(errors))),
        float(np.quantile(np.abs(errors), 0.9)),
        float(np.median(errors)),
        float(np.mean(cached)),
        float(np.median(np.abs(errors[~cached]))),
    )


def fit_family(
    folder: Path, systems: Sequence[str], start: Efficiency, keep: Mapping[str, Table] | None = None
) -> tuple[Efficiency, list[KernelErrors]]:
    """Return the coefficients of a family, fitted to its devices' tables, and the errors per device."""
    del keep
    efficiency, errors = start, []
    for kind in KINDS:
        tables = [table for system in systems if (table := table_of(folder, system, kind)) is not None]
        if tables:
            efficiency = fit_kind(kind, tables, efficiency)
            errors += [judge_kind(kind, table, efficiency) for table in tables]
    return efficiency, errors
