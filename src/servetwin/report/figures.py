"""Figures as plotly.js takes them: lines over time, distributions, and a map of instances over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servetwin.report.page import Figure

MAX_POINTS = 2_000
"""Points of a series in a page; longer ones are thinned out."""

COLORS = ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6")

_AREAS = ("--c1", "--pale")


def layout(x_title: str, y_title: str, **changes: Any) -> dict[str, Any]:
    """Return the layout that all figures share; ``changes`` replace or add top-level keys, axes are merged."""
    axis = {"gridcolor": "--grid", "linecolor": "--line", "zeroline": False, "automargin": True}
    base: dict[str, Any] = {
        "font": {
            "family": "system-ui, -apple-system, Segoe UI, Roboto, Arial, sans-serif",
            "size": 12,
            "color": "--soft",
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 48, "r": 12, "t": 26, "b": 42},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "--card", "bordercolor": "--line", "font": {"color": "--ink"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }
    axes = {
        "xaxis": {**axis, "title": {"text": x_title, "standoff": 6}, "showgrid": False, **changes.pop("xaxis", {})},
        "yaxis": {**axis, "title": {"text": y_title, "standoff": 6}, "rangemode": "tozero", **changes.pop("yaxis", {})},
    }
    return base | axes | changes


def numbers(values: ArrayLike) -> list[float | None]:
    """Return numbers with six significant digits, None for NaN: enough for a picture, and small."""
    return [float(f"{value:.6g}") if value == value else None for value in np.asarray(values, dtype=float).tolist()]


def thin(values: NDArray[Any], *, mean: bool) -> NDArray[Any]:
    """Return at most ``MAX_POINTS`` of a series: the first of each group of neighbours, or their mean."""
    step = -(-len(values) // MAX_POINTS)
    if step <= 1:
        return values
    begins = np.arange(0, len(values), step)
    if not mean:
        return values[begins]
    sums: NDArray[Any] = np.add.reduceat(values, begins) / np.diff(np.append(begins, len(values)))
    return sums


def lines(
    name: str,
    title: str,
    caption: str,
    time_s: NDArray[Any],
    series: Mapping[str, NDArray[Any]],
    y_title: str,
    *,
    interval_s: float = 0.0,
    rates: bool = False,
    stacked: bool = False,
    **changes: Any,
) -> Figure:
    """Return series over time, as lines (``stacked``: two of them, as areas one on the other).

    Parameters
    ----------
    series
        Values by label, each of the shape of ``time_s``; at most six.
    interval_s
        For how long a value holds: the last one is drawn to its end.
    rates
        Whether values are means over intervals; else they are states, held until the next one.
    """
    ends = time_s[-1:] + interval_s if interval_s else time_s[:0]
    x = numbers(np.concatenate([thin(time_s, mean=False), ends]))
    data: list[dict[str, Any]] = []
    for color, (label, values) in zip(_AREAS if stacked else COLORS, series.items(), strict=False):
        trace: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": label, "x": x}
        held = thin(values, mean=rates)
        trace["y"] = numbers(np.concatenate([held, held[-len(ends) :] if len(ends) else ends]))
        trace["line"] = {"color": color, "width": 1.8, "shape": "hv" if len(x) <= MAX_POINTS // 4 else "linear"}
        if stacked:
            trace |= {"stackgroup": "all", "fillcolor": color, "line": trace["line"] | {"width": 0.5}}
        data.append(trace)
    changes.setdefault("showlegend", len(series) > 1)
    return Figure(name, title, caption, data, layout("time, s", y_title, **changes))


def bars(
    name: str, title: str, caption: str, rows: Sequence[str], parts: Mapping[str, NDArray[np.float64]], unit: str
) -> Figure:
    """Return stacked bars, one per row; ``parts`` has a value per row by label, at most six labels."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label,
            "y": list(rows),
            "x": numbers(values),
            "marker": {"color": color},
            "hovertemplate": f"{label}: %{{x:.4g}} {unit}<extra></extra>",
        }
        for color, (label, values) in zip(COLORS, parts.items(), strict=False)
    ]
    y_axis = {"autorange": "reversed", "type": "category", "showgrid": False}
    changes = {"barmode": "stack", "hovermode": "closest", "showlegend": True}
    figure_layout = layout(unit, "", yaxis=y_axis, **changes)
    figure_layout["legend"] = figure_layout["legend"] | {"traceorder": "normal"}
    return Figure(name, title, caption, data, figure_layout, wide=True)


def heat(
    name: str,
    title: str,
    caption: str,
    time_s: NDArray[Any],
    rows: Sequence[str],
    values: NDArray[np.float64],
    unit: str,
) -> Figure:
    """Return a map of values, shape ``(rows, times)``, one line per row."""
    trace = {
        "type": "heatmap",
        "x": numbers(time_s),
        "y": list(rows),
        "z": [numbers(row) for row in values],
        "colorscale": [[0, "--low"], [0.5, "--middle"], [1, "--high"]],
        "zmin": 0,
        "colorbar": {"title": {"text": unit}, "thickness": 12, "outlinewidth": 0},
        "hovertemplate": f"%{{y}}: %{{z:.4g}} {unit} at %{{x}} s<extra></extra>",
    }
    y_axis = {"autorange": "reversed", "type": "category", "showgrid": False}
    return Figure(name, title, caption, [trace], layout("time, s", "", yaxis=y_axis, hovermode="closest"), wide=True)
