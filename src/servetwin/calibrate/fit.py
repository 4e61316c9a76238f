"""Fitting the host's overhead to one measured run."""

from __future__ import annotations

from collections.abc import Callable

from servetwin.calibrate.compare import statistic_of
from servetwin.calibrate.measured import RequestTimes

WEIGHTS = {"ttft": 1 / 2.5, "tpot": 1.0, "e2e": 1.0}
"""An error of this many percent of a mean counts as much as any other's: queueing doubles errors of TTFT and more."""

_GOLDEN = 0.6180339887498949


def mean_errors(measured: RequestTimes, simulated: RequestTimes) -> dict[str, float]:
    """Return the errors of the means of TTFT, TPOT and E2E, as fractions of measured."""
    return {
        metric: statistic_of(getattr(simulated, f"{metric}_s"), "mean")
        / statistic_of(getattr(measured, f"{metric}_s"), "mean")
        - 1
        for metric in WEIGHTS
    }


def fit_host_overhead(
    measured: RequestTimes,
    simulate: Callable[[float], RequestTimes],
    *,
    most_us: float = 5000.0,
    precision_us: float = 10.0,
) -> float:
    """Return the host overhead per step, in microseconds, with which the means of a run fit best.

    Parameters
    ----------
    measured
        The run.
    simulate
        Simulates it with an overhead per step, in microseconds.
    most_us
        The search ends here; it starts at 0.
    precision_us
        Width of the interval at which it stops.

    Notes
    -----
    Golden-section search for the least weighted sum of squares of the three mean errors. Step times grow with the
    overhead, so there is one minimum on the large scale; but steps also shift against arrivals, which moves a time to
    first token up or down by parts of a step. With few requests that hardly wait the result is good to some tens of
    microseconds only.
    """

    def loss(overhead_us: float) -> float:
        errors = mean_errors(measured, simulate(overhead_us))
        return sum((weight * errors[metric]) ** 2 for metric, weight in WEIGHTS.items())

    low, high = 0.0, most_us
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > precision_us:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
    return (low + high) / 2
