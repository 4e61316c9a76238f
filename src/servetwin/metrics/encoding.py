"""What encoders in front of the router did: columns of the requests, and their part of the summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.metrics.records import Integers, Records, column
from servetwin.metrics.stats import describe
from servetwin.metrics.timeline import Grid


def encoder_columns(records: Records) -> dict[str, NDArray[Any]]:
    """Return what requests' encoding took, in seconds, NaN for those without; no columns where there are no encoders.

    ``encoder_queue_s``: from arrival to the start of its batch; ``encode_s``: the batch; ``embedding_s``: from its end
    until the embeddings have come.
    """
    log = records.outcome.encoding
    if log is None:
        return {}
    start, end, landed = column(log.start_ns), column(log.end_ns), column(log.landed_ns)
    done = start >= 0
    return {
        "encoder_tokens": np.asarray(records.outcome.workload.encoder_tokens),
        "encoder_queue_s": np.where(done, (start - records.arrival_ns) / NS_PER_S, np.nan),
        "encode_s": np.where(done, (end - start) / NS_PER_S, np.nan),
        "embedding_s": np.where(done, (landed - end) / NS_PER_S, np.nan),
    }


def encoder_series(records: Records, grid: Grid) -> Iterator[tuple[str, str, dict[str, NDArray[np.float64]]]]:
    """Yield kind, name and series: of all encoders together, requests that wait; of each, the share of busy time."""
    log = records.outcome.encoding
    if log is None:
        return
    start, end, worker = column(log.start_ns), column(log.end_ns), column(log.worker)
    came = records.arrival_ns[np.asarray(records.outcome.workload.encoder_tokens) > 0]
    waiting = grid.so_far(came[came >= 0]) - grid.so_far(start[start >= 0])
    yield "encoder", "encoders", {"waiting": waiting.astype(np.float64)}
    bounds = np.append(grid.start_ns, grid.count * grid.interval_ns)
    for number in range(log.pool.workers):
        mine = worker == number
        begins, ends = np.unique(start[mine]), np.unique(end[mine])
        busy_ns = np.diff(_busy_until(begins, ends, bounds))
        yield "encoder", f"encoder-{number}", {"busy_fraction": busy_ns / grid.interval_ns}


def _busy_until(start_ns: Integers, end_ns: Integers, times_ns: Integers) -> NDArray[np.float64]:
    """Return for how long batches, which do not overlap, had run at some times."""
    done = np.concatenate([[0], np.cumsum(end_ns - start_ns)])
    begun = np.searchsorted(start_ns, times_ns, side="right")
    over = np.maximum(np.append(end_ns, 0)[np.maximum(begun - 1, 0)] - times_ns, 0) * (begun > 0)
    return np.asarray(done[begun] - over, dtype=np.float64)


def encoder_summary(records: Records) -> dict[str, Any]:
    """Return the part ``encoders`` of the summary; nothing where there are none."""
    log = records.outcome.encoding
    if log is None:
        return {}
    columns = encoder_columns(records)
    start, end, worker = column(log.start_ns), column(log.end_ns), column(log.worker)
    done = start >= 0
    batches = np.unique(np.stack([worker[done], start[done], end[done]]), axis=1)
    duration_ns = max(1, records.stop_ns - records.start_ns)
    return {
        "encoders": {
            "device": log.pool.device,
            "workers": log.pool.workers,
            "requests": int(done.sum()),
            "batches": batches.shape[1],
            "busy_fraction": float((batches[2] - batches[1]).sum() / duration_ns / log.pool.workers),
            **{name: describe(columns[name]) for name in ("encoder_queue_s", "encode_s", "embedding_s")},
        }
    }
