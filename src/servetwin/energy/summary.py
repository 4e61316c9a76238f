"""What the summary says of power and energy."""

from __future__ import annotations

from typing import Any

import numpy as np

from servetwin.energy.base import COMPONENTS, Thermal
from servetwin.energy.curves import PowerCurve
from servetwin.energy.model import Energy
from servetwin.energy.thermal import temperatures_c

DURATION_SHARES = (0.01, 0.1, 0.5, 0.9)
"""Shares of the time for which the duration curve is told: power is at or above the figure that long."""

MOST_INTERVALS = 100_000


def energy_summary(energy: Energy, interval_s: float, thermal: dict[str, Thermal] | None = None) -> dict[str, Any]:
    """Return the part ``energy`` of the summary.

    Peak and duration curve are of means over the output's intervals (longer ones where there would be very many).
    """
    series = energy.series(max(interval_s, energy.duration_s / MOST_INTERVALS))
    total_j = energy.total_j
    summary = {
        "total_j": total_j,
        "kwh": total_j / 3.6e6,
        "average_w": total_j / energy.duration_s,
        "peak_w": float(series["total"].max()),
        "components_j": {name: energy.components_j[name] for name in COMPONENTS if energy.components_j[name]},
        "pools_j": {name: sum(parts.values()) for name, parts in energy.pool_components_j.items()},
        "steps_j": energy.step_j,
        **_per_unit(energy, total_j),
        "power_at_or_above_w": duration_curve(energy, series),
    }
    hottest = [_hottest_c(energy, name, item) for name, item in (thermal or {}).items()]
    return summary | ({"peak_temperature_c": max(hottest)} if hottest else {})


def duration_curve(energy: Energy, series: dict[str, Any]) -> dict[str, float]:
    """Return the power that is reached or exceeded for shares of the time, by the share as text."""
    seconds = np.diff(np.append(series["time_s"], energy.duration_s))
    order = np.argsort(-series["total"], kind="stable")
    lasted = np.cumsum(seconds[order]) / seconds.sum()
    places = np.minimum(np.searchsorted(lasted, DURATION_SHARES), len(order) - 1)
    watts = series["total"][order][places]
    return {f"{share:.0%}": float(value) for share, value in zip(DURATION_SHARES, watts, strict=True)}


def _per_unit(energy: Energy, total_j: float) -> dict[str, float | None]:
    log, workload = energy.outcome.requests, energy.outcome.workload
    served = np.asarray(log.first_token_ns) >= 0
    outputs, requests = _output_tokens(energy), int(served.sum())
    tokens = outputs + int(workload.prompt_tokens[served].sum())
    return {
        "j_per_output_token": total_j / outputs if outputs else None,
        "j_per_token": total_j / tokens if tokens else None,
        "j_per_request": total_j / requests if requests else None,
    }


def _output_tokens(energy: Energy) -> int:
    """Return the tokens that appeared."""
    first = int((np.asarray(energy.outcome.requests.first_token_ns) >= 0).sum())
    return first + sum(int(np.sum(np.asarray(log.decoded))) + len(log.resumed_ns) for log in energy.outcome.logs)


def _hottest_c(energy: Energy, pool: str, thermal: Thermal) -> float:
    hottest = thermal.ambient_c
    for record in energy.pools:
        if record.name == pool:
            for item in record.instances:
                curve = energy.accelerator_curve(item.number)
                one = PowerCurve(curve.edges_ns, curve.watts / item.accelerators_count)
                hottest = max(hottest, float(temperatures_c(thermal, one).max()))
    return hottest
