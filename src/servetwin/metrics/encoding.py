"""What encoders did: columns of the requests, series over time, and their part of the summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import EncoderLog
from servetwin.cluster.embeddings import encoder_names
from servetwin.cluster.encoder_batches import batches_of
from servetwin.core.units import NS_PER_S
from servetwin.engine.base import REJECTED
from servetwin.metrics.records import Floats, Integers, Records, column
from servetwin.metrics.stats import describe
from servetwin.metrics.timeline import Grid

ENCODING_PARTS = ("encoder_queue", "encode", "embedding")
"""Parts of the time before a request with images joins an instance's queue, in their order."""


def encoding_ns(records: Records) -> dict[str, NDArray[np.int64]]:
    """Return each part of requests' encoding, in nanoseconds, -1 where it has not ended, by the names of the parts.

    ``encoder_queue``: from arrival to the start of its batch; ``encode``: the batch; ``embedding``: from its end until
    the embeddings have come. Nothing where there are no encoders.
    """
    log = records.outcome.encoding
    if log is None:
        return {}
    start, end, landed = _times(log)
    begun, done = start >= 0, landed >= 0
    return {
        "encoder_queue": np.where(begun, start - records.arrival_ns, -1),
        "encode": np.where(begun, end - start, -1),
        "embedding": np.where(done, landed - end, -1),
    }


def encoder_columns(records: Records) -> dict[str, NDArray[Any]]:
    """Return who encoded requests and what it took, in seconds, None and NaN for those without images.

    No columns where there are no encoders.
    """
    log = records.outcome.encoding
    if log is None:
        return {}
    names = np.array([*encoder_names(log.pool.workers), None], dtype=object)
    parts = encoding_ns(records)
    return {
        "encoder_tokens": np.asarray(records.outcome.workload.encoder_tokens),
        "encoder": names[column(log.worker)],
        **{f"{name}_s": np.where(part >= 0, part / NS_PER_S, np.nan) for name, part in parts.items()},
    }


def encoder_series(records: Records, grid: Grid) -> Iterator[tuple[str, str, dict[str, Floats]]]:
    """Yield kind, name and series.

    Of all encoders together: requests that wait, that are being encoded, and whose embeddings are on their way
    (``sending``); of each encoder, the share of busy time.
    """
    log = records.outcome.encoding
    if log is None:
        return
    start, end, landed = _times(log)
    images = np.asarray(records.outcome.workload.encoder_tokens) > 0
    came = records.arrival_ns[images & ((start >= 0) | (records.state != REJECTED))]
    begun, ended = grid.so_far(start[start >= 0]), grid.so_far(end[end >= 0])
    left = grid.so_far(np.where(landed >= 0, landed, end)[(landed >= 0) | _turned_away(records, end)])
    states = {"waiting": grid.so_far(came[came >= 0]) - begun, "encoding": begun - ended, "sending": ended - left}
    yield "encoder", "encoders", {name: values.astype(np.float64) for name, values in states.items()}
    bounds, batches = np.append(grid.start_ns, grid.count * grid.interval_ns), batches_of(log)
    for number, name in enumerate(encoder_names(log.pool.workers)):
        own = batches.worker == number
        busy_ns = np.diff(_busy_until(batches.start_ns[own], batches.end_ns[own], bounds))
        yield "encoder", name, {"busy_fraction": busy_ns / grid.interval_ns}


def _times(log: EncoderLog) -> tuple[Integers, Integers, Integers]:
    return column(log.start_ns), column(log.end_ns), column(log.landed_ns)


def _turned_away(records: Records, end_ns: Integers) -> NDArray[np.bool_]:
    """Return which requests were rejected when they were encoded, so that nothing was sent."""
    return np.asarray((end_ns >= 0) & ~records.queued)


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
    columns, batches = encoder_columns(records), batches_of(log)
    duration_ns = max(1, records.stop_ns - records.start_ns)
    busy_ns = batches.end_ns.clip(max=records.stop_ns) - batches.start_ns.clip(max=records.stop_ns)
    sent = columns["encoder_tokens"][column(log.landed_ns) >= 0].sum()
    return {
        "encoders": {
            "device": log.pool.device,
            "workers": log.pool.workers,
            "requests": len(batches.row),
            "batches": len(batches.worker),
            "busy_fraction": float(busy_ns.sum() / duration_ns / log.pool.workers),
            "embedding_bytes": float(sent * log.pool.bytes_per_token),
            **{f"{name}_s": describe(columns[f"{name}_s"]) for name in ENCODING_PARTS},
        }
    }
