"""Measured against simulated: one row per metric and statistic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.measured import RequestTimes, Series
from servetwin.calibrate.series import TokenCurve, binned_wape

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Comparison:
    """One number, measured and simulated.

    Attributes
    ----------
    metric, statistic, unit
        What it is: ``ttft``, ``p90``, ``ms``.
    """

    metric: str
    statistic: str
    unit: str
    measured: float
    simulated: float

    @property
    def error_percent(self) -> float:
        """Simulated less measured, in percent of measured (NaN where measured is 0)."""
        return (self.simulated / self.measured - 1) * 100 if self.measured else float("nan")

    @property
    def measured_text(self) -> str:
        """The measured number for people; a dash for none."""
        return _readable(self.measured)

    @property
    def simulated_text(self) -> str:
        """The simulated number for people; a dash for none."""
        return _readable(self.simulated)

    @property
    def error_text(self) -> str:
        """The error for people; a dash where there is none."""
        return f"{self.error_percent:+.2f} %" if isfinite(self.error_percent) else "–"

    def as_dict(self) -> dict[str, str | float | None]:
        """Return the row as plain data; NaN becomes None."""
        numbers = {name: getattr(self, name) for name in ("measured", "simulated", "error_percent")}
        row: dict[str, str | float | None] = {"metric": self.metric, "statistic": self.statistic, "unit": self.unit}
        return row | {name: value if isfinite(value) else None for name, value in numbers.items()}


def _readable(value: float) -> str:
    if not isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1e5 or value == int(value) else f"{value:,.{2 if abs(value) >= 10 else 4}f}"


def statistic_of(values: NDArray[np.float64], name: str) -> float:
    """Return the mean or a percentile (``p90``, interpolated linearly); NaN of nothing."""
    if len(values) == 0:
        return float("nan")
    return float(np.mean(values)) if name == "mean" else float(np.percentile(values, float(name[1:])))


def compare_requests(measured: RequestTimes, simulated: RequestTimes) -> list[Comparison]:
    """Return every statistic of TTFT, TPOT and E2E, and the throughput from first arrival to last token."""
    rows = [
        Comparison(
            metric,
            statistic,
            "ms",
            statistic_of(getattr(measured, f"{metric}_s"), statistic) * 1e3,
            statistic_of(getattr(simulated, f"{metric}_s"), statistic) * 1e3,
        )
        for metric in ("ttft", "tpot", "e2e")
        for statistic in STATISTICS
    ]
    rows.append(Comparison("duration", "total", "s", _span_s(measured), _span_s(simulated)))
    rates = [times.output_tokens.sum() / _span_s(times) for times in (measured, simulated)]
    rows.append(Comparison("throughput", "mean", "tokens/s", float(rates[0]), float(rates[1])))
    return rows


def _span_s(times: RequestTimes) -> float:
    return float(times.finish_s.max() - times.arrival_s.min())


def compare_curves(measured: TokenCurve, simulated: TokenCurve) -> list[Comparison]:
    """Return the times at which shares of the tokens are out, and the total of tokens."""
    rows = [
        Comparison("tokens out", f"{share:.0%}", "s", measured.time_of_share(share), simulated.time_of_share(share))
        for share in SHARES
    ]
    rows.append(Comparison("tokens", "total", "", measured.total, simulated.total))
    return rows


def compare_series(measured: Series, simulated: Series, bin_s: float = 3.0) -> Iterator[Comparison]:
    """Yield what two series say about the metrics that both have.

    The output throughput is compared by its cumulative tokens and its mean, other metrics by mean and maximum. For
    WAPE the measured column is 0 by definition, and the simulated one is the error in percent.
    """
    for name, values in measured.columns.items():
        if name not in simulated.columns:
            continue
        model = simulated.columns[name]
        if name == "output_tokens_per_s":
            curves = TokenCurve.from_rates(measured.end_s, values), TokenCurve.from_rates(simulated.end_s, model)
            yield from compare_curves(*curves)
            yield Comparison("throughput", f"WAPE {bin_s:g} s", "%", 0.0, binned_wape(*curves, bin_s) * 100)
            name = "throughput"
        yield Comparison(name, "mean", "", float(values.mean()), _mean_until(simulated, model, measured.end_s[-1]))
        yield Comparison(name, "max", "", float(values.max()), float(model.max()))


def _mean_until(series: Series, values: NDArray[np.float64], end_s: float) -> float:
    """Return the mean over the time that was measured; a run that ended earlier counts as 0 from there on."""
    inside = series.end_s <= end_s + 1e-9
    if not inside.any():
        return float("nan")
    width = series.end_s[1] - series.end_s[0] if len(series.end_s) > 1 else 1.0
    return float(values[inside].sum() * width / max(end_s, float(series.end_s[inside][-1])))
