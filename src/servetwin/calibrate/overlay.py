"""The overlay page: measured and simulated in the same charts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.compare import Comparison
from servetwin.calibrate.measured import RequestTimes, Series
from servetwin.report.distributions import distribution
from servetwin.report.figures import lines
from servetwin.report.page import Figure, charts, page, section
from servetwin.report.tables import table

_OVER_TIME = {
    "output_tokens_per_s": ("Output throughput", "tokens per second"),
    "prompt_tokens_per_s": ("Prompt throughput", "tokens per second"),
    "running": ("Running requests", "requests"),
    "waiting": ("Waiting requests", "requests"),
    "kv_used_bytes": ("KV cache in use", "bytes"),
    "prefix_hit_rate": ("Prefix hit rate", "share of prompt tokens"),
}

_LATENCIES = {"ttft": "Time to first token", "tpot": "Time per output token", "e2e": "End-to-end latency"}


def overlay_page(
    title: str,
    rows: Sequence[Comparison],
    series: tuple[Series, Series],
    requests: tuple[RequestTimes, RequestTimes] | None,
) -> str:
    """Return the page; of each pair the first is measured, the second simulated.

    Parameters
    ----------
    rows
        The comparison, shown as a table.
    series
        Over time; only metrics that both have are drawn.
    requests
        Per-request times, for the distributions; None where a series is all that was measured.
    """
    over_time = [_over_time(name, *series) for name in _OVER_TIME if all(name in s.columns for s in series)]
    distributions = [_distribution(name, *requests) for name in _LATENCIES] if requests else []
    body = [section("Errors", comparison_table(rows)), section("Over time", charts(over_time))]
    if distributions:
        body.append(section("Latencies", charts(distributions)))
    return page(title, "Measured against simulated", "\n".join(body), [*over_time, *distributions])


def comparison_table(rows: Sequence[Comparison]) -> str:
    """Return the comparison as HTML."""
    header = ["Metric", "statistic", "measured", "simulated", "error"]
    cells = [
        [escape(row.metric), escape(row.statistic), row.measured_text, row.simulated_text, row.error_text]
        for row in rows
    ]
    return table(header, cells)


def _over_time(name: str, measured: Series, simulated: Series) -> Figure:
    title, unit = _OVER_TIME[name]
    time_s = np.union1d(measured.end_s, simulated.end_s)
    curves = {"measured": _at(measured, name, time_s), "simulated": _at(simulated, name, time_s)}
    return lines(f"time-{name}", title, "measured and simulated", time_s, curves, unit, rates=True)


def _at(series: Series, name: str, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the value of the interval that each time falls in; NaN beyond the last."""
    rows = np.searchsorted(series.end_s, time_s, side="left")
    values = np.append(series.columns[name], np.nan)
    return np.asarray(values[rows])


def _distribution(name: str, measured: RequestTimes, simulated: RequestTimes) -> Figure:
    def seconds(times: RequestTimes) -> tuple[NDArray[np.float64], None]:
        values: NDArray[np.float64] = getattr(times, f"{name}_s")
        return values, None

    curves = {"measured": seconds(measured), "simulated": seconds(simulated)}
    return distribution(f"cdf-{name}", _LATENCIES[name], "share of requests", curves)
