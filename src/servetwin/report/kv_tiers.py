"""KV tiers in a report: what they held over time, and how many chunks they had."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from servetwin.metrics.measurements import Measurements
from servetwin.metrics.tiers import tier_series
from servetwin.report.figures import lines
from servetwin.report.page import Figure
from servetwin.report.tables import MAX_ROWS, number, percent, table

_KINDS_AT_MOST = 4


def tier_figures(measurements: Measurements) -> list[Figure]:
    """Return the bytes that the tiers of each kind held over time; nothing where there are no tiers."""
    records, grid = measurements.records, measurements.grid
    used: dict[str, Any] = {}
    for record in records.outcome.tiers:
        kind = record.tier.kind
        used[kind] = used.get(kind, 0) + tier_series(record, grid)["used_bytes"] / 1e9
    if not used or len(used) > _KINDS_AT_MOST:
        return []
    time_s = grid.start_ns / 1e9
    caption = "KV that tiers below the devices hold, by kind"
    held = {kind: np.asarray(values, np.float64) for kind, values in used.items()}
    return [lines("tiers", "KV tiers", caption, time_s, held, "GB", interval_s=grid.interval_ns / 1e9)]


def tier_table(summary: dict[str, Any]) -> str:
    """Return one line per tier, the first ``MAX_ROWS`` of them."""
    header = ["Tier", "instances", "capacity, GB", "peak, GB", "hit rate", "chunks stored", "evicted"]
    return table(
        header,
        [
            [
                escape(tier["name"]),
                number(len(tier["instances"])),
                "unlimited" if tier["capacity_bytes"] is None else number(tier["capacity_bytes"] / 1e9),
                number(tier["peak_used_bytes"] / 1e9),
                percent(tier["hit_rate"]),
                number(tier["stored_chunks"]),
                number(tier["evicted_chunks"]),
            ]
            for tier in summary["tiers"][:MAX_ROWS]
        ],
    )
