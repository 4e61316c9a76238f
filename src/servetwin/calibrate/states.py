"""Throughput, running and waiting requests over time, from a per-request log."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servetwin.calibrate.measured import RequestTimes, Series


def series_of(requests: RequestTimes, interval_s: float = 1.0) -> Series:
    """Return what a log says of each interval.

    A request counts as waiting from arrival to first token and as running from there to its end, at the end of an
    interval; its tokens are spread evenly between first and last.
    """
    last = float(requests.finish_s.max())
    end_s: NDArray[np.float64] = np.arange(1.0, int(np.ceil(last / interval_s)) + 1) * interval_s
    tokens = np.diff(_tokens_until(requests, np.concatenate(([0.0], end_s))))
    arrived, first, finished = (
        np.searchsorted(np.sort(times), end_s, side="right")
        for times in (requests.arrival_s, requests.first_token_s, requests.finish_s)
    )
    return Series(
        end_s,
        {
            "output_tokens_per_s": tokens / interval_s,
            "running": (first - finished).astype(np.float64),
            "waiting": (arrived - first).astype(np.float64),
        },
    )


def _tokens_until(requests: RequestTimes, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the tokens that are out at each time: the first of a request at once, the others evenly."""
    first, later = requests.first_token_s, requests.output_tokens - 1
    span = np.maximum(requests.finish_s - first, 1e-9)
    total = np.zeros(len(time_s))
    for start, length, tokens in zip(first, span, later, strict=True):
        total += np.where(time_s >= start, 1 + tokens * np.clip((time_s - start) / length, 0, 1), 0)
    return total
