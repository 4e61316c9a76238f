"""Statistics of latencies: mean and percentiles, of plain values and of weighted ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
STATISTICS = ("mean", *QUANTILES)

Statistics = dict[str, float | None]

_Q = np.array(list(QUANTILES.values()))


def describe(values: ArrayLike) -> Statistics:
    """Return mean, p50, p90, p95 and p99 of ``values``.

    Parameters
    ----------
    values
        Numbers of any shape; NaN (undefined) ones are left out.

    Returns
    -------
    dict
        Keys of ``STATISTICS``; each value is None when there is no number. Percentiles interpolate linearly between
        the two nearest ranks, as ``numpy.percentile`` does.

    Examples
    --------
    >>> describe([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=None)
    count = int(np.searchsorted(ordered, np.nan))  # NaN sorts last
    if not count:
        return dict.fromkeys(STATISTICS)
    return _statistics(float(ordered[:count].mean()), count, lambda rank: ordered[rank])


def describe_weighted(values: NDArray[np.float64], weights: NDArray[np.int64]) -> Statistics:
    """Return ``describe(np.repeat(values, weights))`` without expanding it.

    Parameters
    ----------
    values, weights
        Shape ``(n,)``; weights are counts, zero or more.
    """
    count = int(weights.sum())
    if not count:
        return dict.fromkeys(STATISTICS)
    order = np.argsort(values)
    ordered, ends = values[order], np.cumsum(weights[order])
    mean = float((values * weights).sum()) / count
    return _statistics(mean, count, lambda rank: ordered[np.searchsorted(ends, rank, side="right")])


def _statistics(mean: float, count: int, at: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> Statistics:
    """Return the statistics of ``count`` ordered values, of which ``at(ranks)`` reads some."""
    position = _Q * (count - 1)
    rank = position.astype(np.int64)
    low, high, part = at(rank), at(np.minimum(rank + 1, count - 1)), position - rank
    # numpy interpolates from the nearer end, so that equal neighbours give exactly their value
    values = np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))
    return dict(zip(STATISTICS, [mean, *values.tolist()], strict=True))
