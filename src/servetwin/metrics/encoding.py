"""What encoders in front of the router did: columns of the requests, and their part of the summary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.metrics.records import Records, column
from servetwin.metrics.stats import describe


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
