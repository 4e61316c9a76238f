"""What instances, pools, links and KV tiers did over time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import LinkRecord
from servetwin.core.units import NS_PER_S
from servetwin.metrics.encoding import encoder_series
from servetwin.metrics.records import Floats, Records, Scope
from servetwin.metrics.tiers import tier_series
from servetwin.metrics.timeline import Grid, busy_fraction, timeline, transferring

Series = dict[str, NDArray[Any]]
"""Values per interval, by metric."""

NamedSeries = tuple[str, str, Series]
"""Kind and name of a resource, and its series."""

RESOURCE_METRICS = (
    "running",
    "waiting",
    "output_tokens_per_s",
    "prompt_tokens_per_s",
    "kv_used_bytes",
    "kv_cached_bytes",
    "busy_fraction",
)
"""Of an instance or a pool; ``transferring`` comes last where prefill and decode are apart."""


def resource_series(records: Records, grid: Grid) -> Iterator[NamedSeries]:
    """Yield kind (``"instance"``, ``"pool"``, ``"link"``, ``"encoder"``, ``"tier"``), name and series of all resources.

    Of links, those that were used.
    """
    for spec, scope in zip(records.instances, records.scopes, strict=True):
        yield "instance", spec.name, _series(records, grid, scope)
    if len(records.pools) > 1:
        for name, scope in records.pools:
            yield "pool", name, _series(records, grid, scope)
    for link in records.outcome.links:
        if len(link.start_ns):
            yield "link", link.name, link_series(link, grid)
    yield from encoder_series(records, grid)
    for tier in records.outcome.tiers:
        yield "tier", tier.tier.name, tier_series(tier, grid)


def _series(records: Records, grid: Grid, scope: Scope) -> Series:
    busy = [busy_fraction(records.logs[i], grid) for i in scope.instances]
    series = timeline(records, grid, scope) | {"busy_fraction": np.mean(busy, axis=0)}
    apart = {"transferring": transferring(records, grid, scope)} if records.apart else {}
    return {metric: series[metric] for metric in RESOURCE_METRICS} | apart


def link_series(link: LinkRecord, grid: Grid) -> Series:
    """Return bytes per second and the share of the bandwidth that was used, per interval.

    Within an interval of the link's own record, which may be another one, bytes are spread evenly.
    """
    bounds = np.append(grid.start_ns, grid.count * grid.interval_ns)
    rate = np.diff(_moved_until(link, bounds)) * (NS_PER_S / grid.interval_ns)
    return {"bytes_per_s": rate, "utilization": rate / link.bandwidth_bytes_per_s}


def _moved_until(link: LinkRecord, times_ns: NDArray[np.int64]) -> Floats:
    """Return the bytes that a link had carried at some times."""
    if not len(link.start_ns):
        return np.zeros(len(times_ns))
    moved = np.concatenate([[0.0], np.cumsum(link.moved_bytes)])
    interval = np.searchsorted(link.start_ns, times_ns, side="right") - 1
    known = np.maximum(interval, 0)
    share = np.clip((times_ns - link.start_ns[known]) / link.interval_ns, 0, 1)
    return np.where(interval < 0, 0.0, moved[known] + share * link.moved_bytes[known])
