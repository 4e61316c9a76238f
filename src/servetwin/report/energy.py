"""The report's part on power, cost and carbon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from html import escape
from typing import Any

import numpy as np

from servetwin.metrics.tables import Table
from servetwin.report.figures import lines
from servetwin.report.page import Figure, charts, section
from servetwin.report.tables import number, table

_SHOWN = 4


def energy_figures(summary: Mapping[str, Any], power: Table | None) -> list[Figure]:
    """Return power over time: the components that take most energy, and the rest together; nothing without power."""
    if power is None or "energy" not in summary or len(power["time_s"]) == 0:
        return []
    energies: Mapping[str, float] = summary["energy"]["components_j"]
    ordered = sorted(energies, key=lambda name: -energies[name])
    shown = ordered[: _SHOWN - 1] if len(ordered) > _SHOWN else ordered
    series = {name.replace("_", " "): np.asarray(power[f"{name}_w"]) for name in shown}
    if len(ordered) > _SHOWN:
        series["all else"] = np.asarray(sum(power[f"{name}_w"] for name in ordered[_SHOWN - 1 :]))
    time_s = power["time_s"]
    interval_s = float(time_s[1] - time_s[0]) if len(time_s) > 1 else 0.0
    draw = partial(lines, interval_s=interval_s, rates=True)
    caption = "mean over each interval, by component"
    total = {"total": np.asarray(power["total_w"])}
    return [
        draw("power", "Power", "at the site's meter, mean over each interval", time_s, total, "W"),
        draw("power-components", "Power by component", caption, time_s, series, "W"),
    ]


def energy_section(summary: Mapping[str, Any], figures: list[Figure]) -> str:
    """Return the section; empty where the scenario asks for nothing of it."""
    parts = (_energy(summary), _pools(summary), _cost(summary), _classes(summary), _carbon(summary))
    tables = [table(header, rows) for header, rows in parts if rows]
    if not tables:
        return ""
    return section("Power, cost, carbon", (charts(figures) if figures else "") + "".join(tables))


def energy_tiles(summary: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Yield label, value and note of the numbers that stand out."""
    if "energy" in summary:
        energy = summary["energy"]
        yield "Average power, W", number(energy["average_w"]), f"peak {number(energy['peak_w'])} W"
        yield "Energy per output token, J", number(energy["j_per_output_token"]), f"{number(energy['kwh'])} kWh in all"
    if "cost" in summary:
        cost = summary["cost"]
        label = f"Cost per million output tokens, {cost['currency']}"
        yield label, number(cost["per_million_output_tokens"]), f"input {number(cost['per_million_input_tokens'])}"


Rows = tuple[list[str], list[list[str]]]


def _energy(summary: Mapping[str, Any]) -> Rows:
    if "energy" not in summary:
        return [], []
    energy = summary["energy"]
    total = energy["total_j"] or 1.0
    rows = [
        [escape(name.replace("_", " ")), number(joules / 3.6e6), f"{joules / total:.1%}"]
        for name, joules in energy["components_j"].items()
    ]
    return ["component", "kWh", "share"], rows


def _pools(summary: Mapping[str, Any]) -> Rows:
    """Return each pool's energy, where there are several."""
    pools: Mapping[str, float] = summary.get("energy", {}).get("pools_j", {})
    total = sum(pools.values()) or 1.0
    rows = [[escape(name), number(joules / 3.6e6), f"{joules / total:.1%}"] for name, joules in pools.items()]
    return ["pool", "kWh", "share"], rows if len(rows) > 1 else []


def _cost(summary: Mapping[str, Any]) -> Rows:
    if "cost" not in summary:
        return [], []
    cost = summary["cost"]
    header = [f"pool, {escape(cost['currency'])}", "hardware", "energy", "total"]
    parts = ("hardware", "energy", "total")
    rows = [[escape(name), *(number(pool[part]) for part in parts)] for name, pool in cost["pools"].items()]
    return header, [*rows, ["all", *(number(cost[part]) for part in parts)]]


def _classes(summary: Mapping[str, Any]) -> Rows:
    classes: Mapping[str, Any] = summary.get("cost", {}).get("classes", {})
    keys = ("per_request", "per_million_input_tokens", "per_million_output_tokens")
    rows = [
        [escape(name), f"{item['requests']:,}", *(number(item[key]) for key in keys)] for name, item in classes.items()
    ]
    return ["class", "requests", "per request", "per million input", "per million output"], rows


def _carbon(summary: Mapping[str, Any]) -> Rows:
    if "carbon" not in summary:
        return [], []
    carbon = summary["carbon"]
    names = {
        "operational_g": "from energy, g",
        "embodied_g": "from making the hardware, g",
        "g_per_request": "per request, g",
        "g_per_million_output_tokens": "per million output tokens, g",
    }
    return ["CO2 equivalent", ""], [[label, number(carbon[key])] for key, label in names.items()]
