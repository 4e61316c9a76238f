"""Cumulative distributions of latencies, as figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from servetwin.report.figures import COLORS, layout, numbers
from servetwin.report.page import Figure

_POINTS = 800

_OBJECTIVE_WITHIN = 1.5
"""An objective is drawn up to this multiple of the largest value; beyond, it would squeeze the curve."""

_LOGARITHMIC_FROM = 30.0
"""Largest value over median from which on an axis is logarithmic."""

Values = tuple[NDArray[np.float64], NDArray[np.int64] | None]
"""Seconds, and how often each occurred (None: once)."""


class Curve(NamedTuple):
    """A distribution: values, ascending, in seconds, and the share of all that is at most each."""

    seconds: NDArray[np.float64]
    share: NDArray[np.float64]


def distribution(
    name: str, title: str, caption: str, values: Mapping[str, Values], *, limit_s: float | None = None
) -> Figure:
    """Return the cumulative distributions of latencies.

    Parameters
    ----------
    values
        At most four, by label.
    limit_s
        An objective, drawn as an upright line if it is not far beyond all values.
    """
    curves = {label: cumulative(*entry) for label, entry in values.items()}
    curves = {label: curve for label, curve in curves.items() if len(curve.seconds)}
    largest = max((curve.seconds[-1] for curve in curves.values()), default=0.0)
    if limit_s is not None and limit_s > _OBJECTIVE_WITHIN * largest:
        limit_s = None
    unit, factor = ("s", 1.0) if largest >= 2.0 else ("ms", 1000.0)
    data = [
        _trace(label, color, curve, unit, factor) for color, (label, curve) in zip(COLORS, curves.items(), strict=False)
    ]
    axis = _latency_axis(curves, factor * max(largest, limit_s or 0.0))
    changes: dict[str, Any] = {"showlegend": len(data) > 1, "hovermode": "closest", "xaxis": axis}
    if limit_s is not None:
        changes |= _objective(limit_s * factor, unit, largest * factor, axis)
    y_axis = {"range": [0, 101], "ticksuffix": " %"}
    return Figure(name, title, caption, data, layout(unit, "", yaxis=y_axis, **changes))


def cumulative(values: NDArray[np.float64], weights: NDArray[np.int64] | None = None) -> Curve:
    """Return the distribution of values, NaN left out, at no more than 800 points; empty for no values."""
    counts = np.ones(len(values), np.int64) if weights is None else weights
    known = ~np.isnan(values) & (counts > 0)
    if not known.any():
        return Curve(np.empty(0), np.empty(0))
    order = np.argsort(values[known])
    ordered, ends = values[known][order], np.cumsum(counts[known][order])
    ranks = np.unique(np.linspace(0, ends[-1] - 1, _POINTS).astype(np.int64))
    index = np.unique(np.searchsorted(ends, ranks, side="right"))
    return Curve(ordered[index], ends[index] / ends[-1])


def _trace(label: str, color: str, curve: Curve, unit: str, factor: float) -> dict[str, Any]:
    """Return a curve as a line of steps that begins at zero."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label,
        "x": numbers(np.concatenate([curve.seconds[:1], curve.seconds]) * factor),
        "y": numbers(np.concatenate([[0.0], curve.share]) * 100),
        "line": {"color": color, "width": 2, "shape": "hv"},
        "hovertemplate": f"%{{y:.1f}} % within %{{x:.4g}} {unit}<extra></extra>",
    }


def _latency_axis(curves: Mapping[str, Curve], end: float) -> dict[str, Any]:
    """Return the changes of a latency axis: logarithmic where a few values are far above the rest."""
    for seconds, share in curves.values():
        median = seconds[np.searchsorted(share, 0.5)]
        if seconds[0] > 0 and seconds[-1] / median > _LOGARITHMIC_FROM:
            few_decades = seconds[-1] / seconds[0] < 300
            return {"type": "log", "showgrid": True, "dtick": "D2" if few_decades else 1}
    return {"range": [0, float(f"{1.04 * end:.6g}") or 1.0], "showgrid": True}


def _objective(x: float, unit: str, largest: float, axis: Mapping[str, Any]) -> dict[str, Any]:
    """Return an upright line at an objective with a label beside its top, as layout keys."""
    label = {
        "x": float(np.log10(x)) if axis.get("type") == "log" else x,
        "y": 1.0,
        "yref": "paper",
        "xanchor": "left" if x < 0.7 * largest else "right",
        "yanchor": "bottom",
        "text": f"objective {x:g} {unit}",
        "showarrow": False,
        "font": {"color": "--alert", "size": 11},
    }
    line = {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"}
    return {"shapes": [line | {"line": {"color": "--alert", "width": 1.2, "dash": "dash"}}], "annotations": [label]}
