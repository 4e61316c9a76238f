"""The batches of encoders, recovered from their log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import EncoderLog

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncoderBatches:
    """All batches that have begun, by worker, then by time.

    Attributes
    ----------
    worker, start_ns, end_ns
        Of shape ``(batches,)``.
    row, batch
        The requests in them and the batch of each, of shape ``(encoded requests,)``, by batch.
    """

    worker: Integers
    start_ns: Integers
    end_ns: Integers
    row: Integers
    batch: Integers


def batches_of(log: EncoderLog) -> EncoderBatches:
    """Return the batches of a log."""
    start, end, worker = (np.asarray(values, dtype=np.int64) for values in (log.start_ns, log.end_ns, log.worker))
    rows = np.flatnonzero(start >= 0)
    rows = rows[np.lexsort((start[rows], worker[rows]))]
    begins = np.append(True, (np.diff(start[rows]) != 0) | (np.diff(worker[rows]) != 0))[: len(rows)]
    first = rows[begins]
    return EncoderBatches(worker[first], start[first], end[first], rows, np.cumsum(begins) - 1)
