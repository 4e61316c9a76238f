"""What KV tiers held and gave, over time and in all, and what requests had from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import TierRecord
from servetwin.core.units import NS_PER_S
from servetwin.metrics.records import Records, Rows, column
from servetwin.metrics.timeline import Grid

RATES = ("hit_chunks", "missed_chunks", "stored_chunks", "evicted_chunks")
"""Columns of a tier's log that are sums since the start."""


def tier_series(record: TierRecord, grid: Grid) -> dict[str, NDArray[Any]]:
    """Return a tier over time: bytes held at the begin of each interval, and chunks per second in it."""
    log, at_ns = record.log, np.append(grid.start_ns, grid.count * grid.interval_ns)
    place = np.searchsorted(column(log.time_ns), at_ns - 1, side="right")
    begin = np.searchsorted(column(log.time_ns), grid.start_ns, side="right")

    def known(name: str, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([[0], column(getattr(log, name))])[places]

    series: dict[str, NDArray[Any]] = {"used_bytes": known("used_chunks", begin) * record.tier.chunk_bytes}
    for name in RATES:
        series[f"{name}_per_s"] = np.diff(known(name, place)) * (NS_PER_S / grid.interval_ns)
    return series


def tier_tokens(records: Records) -> NDArray[np.int64]:
    """Return how many of its prompt's tokens each request had from tiers when it was first let in."""
    tokens = np.zeros(len(records), np.int64)
    for log in records.logs:
        rows = column(log.recall_request)
        first = np.less_equal(column(log.recall_ns), records.first_scheduled_ns[rows])
        np.add.at(tokens, rows[first], column(log.recall_tokens)[first])
    return tokens


def recall_ns(records: Records) -> NDArray[np.int64]:
    """Return how long each request waited for KV from tiers, in nanoseconds: until the last tier had given its part."""
    waited = np.zeros(len(records), np.int64)
    for log in records.logs:
        if not log.recall_request:
            continue
        rows, start_ns, end_ns = (column(c) for c in (log.recall_request, log.recall_ns, log.recalled_ns))
        first = np.flatnonzero((np.diff(rows, prepend=-1) != 0) | (np.diff(start_ns, prepend=-1) != 0))
        np.add.at(waited, rows[first], np.maximum.reduceat(end_ns, first) - start_ns[first])
    return waited


def tier_hit_rate(records: Records, rows: Rows) -> float:
    """Return tokens that tiers gave / prompt tokens that were looked up, at the first admission; 0 where none were."""
    chosen = records.looked_up[rows]
    looked_up = int(records.prompt_tokens[rows][chosen].sum())
    return int(tier_tokens(records)[rows][chosen].sum()) / looked_up if looked_up else 0.0


def tier_summaries(records: Records) -> list[dict[str, Any]]:
    """Return what each tier held at most, and how many of the chunks that it was asked for it had."""
    return [_summary(records, record) for record in records.outcome.tiers]


def _summary(records: Records, record: TierRecord) -> dict[str, Any]:
    tier, log = record.tier, record.log
    hit, missed = _last(log.hit_chunks), _last(log.missed_chunks)
    return {
        "name": tier.name,
        "kind": tier.kind,
        "instances": [records.instances[number].name for number in record.instances],
        "capacity_bytes": None if tier.capacity_chunks is None else tier.capacity_chunks * tier.chunk_bytes,
        "peak_used_bytes": int(column(log.used_chunks).max(initial=0)) * tier.chunk_bytes,
        "hit_chunks": hit,
        "missed_chunks": missed,
        "hit_rate": hit / (hit + missed) if hit + missed else 0.0,
        "stored_chunks": _last(log.stored_chunks),
        "evicted_chunks": _last(log.evicted_chunks),
    }


def _last(values: Any) -> int:
    return int(values[-1]) if len(values) else 0
