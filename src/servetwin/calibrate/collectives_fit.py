"""Fits the coefficients of collectives to measured tables, and says how far off they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from servetwin.network.aiconfigurator import CollectiveRow
from servetwin.network.algorithms import ENGINE_ALGORITHMS, NCCL_ALGORITHMS
from servetwin.network.base import Collectives
from servetwin.network.costs import CollectiveCosts
from servetwin.network.topology import Level, Topology
from servetwin.network.topology_collectives import TopologyCollectives

SENDS = ("send_start_ns", "send_gb_per_s", "send_simple_start_ns", "send_efficiency")
ONE_KERNEL = ("one_kernel_start_ns", "one_kernel_step_ns", "one_kernel_efficiency")
SWITCH = ("switch_start_ns", "switch_efficiency")
PROTOCOLS = tuple(item.name for item in fields(CollectiveCosts) if item.name not in (*SENDS, *ONE_KERNEL, *SWITCH))

START = CollectiveCosts(
    start_ns=4500,
    ll_step_ns=900,
    ll_efficiency=0.15,
    ll128_step_ns=1200,
    ll128_efficiency=0.5,
    simple_start_ns=15000,
    simple_step_ns=1500,
    simple_efficiency=0.8,
    local_speed=2.0,
    send_start_ns=7000,
    send_gb_per_s=3.0,
    send_simple_start_ns=14000,
    send_efficiency=0.65,
    switch_start_ns=20000,
    switch_efficiency=0.6,
    one_kernel_start_ns=2000,
    one_kernel_step_ns=3000,
    one_kernel_efficiency=0.6,
)
"""Where the fit begins: NCCL's tuning model and a middling NVLink."""

LIMITS: Mapping[str, tuple[float, float]] = {
    "ll_step_ns": (300, 1_300),
    "ll_efficiency": (0.03, 0.25),
    "ll128_step_ns": (700, 3_000),
    "ll128_efficiency": (0.25, 0.9375),
    "simple_step_ns": (500, 6_000),
    "send_start_ns": (3_000, 12_000),
    "send_gb_per_s": (0.5, 12),
    "switch_efficiency": (0.4, 1.0),
    "one_kernel_start_ns": (500, 10_000),
    "one_kernel_step_ns": (500, 10_000),
}
"""Narrower bounds of a fit, so that each protocol keeps its part: LL's steps are cheap, at the least bandwidth."""


@dataclass(frozen=True)
class FitData:
    """What coefficients are fitted to: a level (whose costs are to be found), and measured rows on it."""

    level: Level
    nccl: Sequence[CollectiveRow]
    custom: Sequence[CollectiveRow] = ()


def model(level: Level, costs: CollectiveCosts, *, nccl_only: bool) -> Collectives:
    """Return the formula on one level with given coefficients."""
    topology = Topology((replace(level, costs=costs),))
    return TopologyCollectives(topology, NCCL_ALGORITHMS if nccl_only else ENGINE_ALGORITHMS)


def predicted_ns(collectives: Collectives, row: CollectiveRow) -> float:
    """Return what the formula says of a measured row."""
    operations: Mapping[str, Callable[[float, int], float]] = {
        "all_reduce": collectives.all_reduce_ns,
        "all_gather": collectives.all_gather_ns,
        "reduce_scatter": collectives.reduce_scatter_ns,
        "all_to_all": collectives.all_to_all_ns,
    }
    return operations[row.operation](row.num_bytes, row.ranks)


def fit_costs(data: FitData) -> CollectiveCosts:
    """Return the coefficients with the smallest errors (robust, of logarithms) on the data. Needs SciPy."""
    ring = [row for row in data.nccl if row.operation != "all_to_all"]
    costs = _fit(data.level, ring, START, (*PROTOCOLS, *(SWITCH if data.level.in_switch_reduction else ())), True)
    sends = [row for row in data.nccl if row.operation == "all_to_all"]
    costs = _fit(data.level, sends, costs, SENDS, True)
    own = [row for row in data.custom if row.num_bytes < costs.ONE_KERNEL_BYTES]
    return _fit(data.level, own, costs, ONE_KERNEL, False) if own else costs


def _fit(
    level: Level, rows: Sequence[CollectiveRow], start: CollectiveCosts, names: Sequence[str], nccl_only: bool
) -> CollectiveCosts:
    from scipy.optimize import least_squares  # type: ignore[import-untyped]

    bounds = {item.name: (item.metadata["low"], item.metadata["high"]) for item in fields(CollectiveCosts)}
    bounds.update(LIMITS)
    low = np.log([max(bounds[name][0], 1.0 if name.endswith("_ns") else 0.0) for name in names])
    high = np.log([bounds[name][1] for name in names])
    measured = np.log([row.time_ns for row in rows])

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        collectives = model(level, _changed(start, names, logs), nccl_only=nccl_only)
        return np.log([predicted_ns(collectives, row) for row in rows]) - measured

    first = np.clip(np.log([getattr(start, name) for name in names]), low + 1e-6, high - 1e-6)
    found = least_squares(
        residuals, first, bounds=(low, high), loss="soft_l1", f_scale=0.05, diff_step=1e-3, x_scale=1.0, max_nfev=60
    )
    return _changed(start, names, found.x)


def _changed(costs: CollectiveCosts, names: Iterable[str], logs: NDArray[np.float64]) -> CollectiveCosts:
    return replace(costs, **{name: float(f"{math.exp(log):.4g}") for name, log in zip(names, logs, strict=True)})


@dataclass(frozen=True)
class Residuals:
    """Errors of a group of rows, as shares of measured."""

    operation: str
    ranks: int
    rows: int
    median: float
    p90: float
    bias: float


def residuals_of(collectives: Collectives, rows: Sequence[CollectiveRow]) -> list[Residuals]:
    """Return the errors by operation and rank count, and last those of all rows (``all``, 0 ranks)."""
    groups: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        error = predicted_ns(collectives, row) / row.time_ns - 1
        groups.setdefault((row.operation, row.ranks), []).append(error)
    everything = [error for errors in groups.values() for error in errors]
    found = [_residuals(*key, errors) for key, errors in sorted(groups.items())]
    return [*found, _residuals("all", 0, everything)]


def _residuals(operation: str, ranks: int, errors: Sequence[float]) -> Residuals:
    size = np.abs(errors)
    return Residuals(
        operation, ranks, len(errors), float(np.median(size)), float(np.percentile(size, 90)), float(np.median(errors))
    )


def between(rows: Iterable[CollectiveRow], least_bytes: float, most_bytes: float) -> list[CollectiveRow]:
    """Return the rows of sizes from ``least_bytes`` to ``most_bytes``."""
    return [row for row in rows if least_bytes <= row.num_bytes <= most_bytes]
