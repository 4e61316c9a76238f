"""The tables of a result: one row per request, and one row per interval, thing and metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.engine.base import STATE_NAMES
from servetwin.metrics.breakdown import breakdown_ns
from servetwin.metrics.encoding import encoder_columns
from servetwin.metrics.records import EVERY_ROW, Integers, Records, latencies_s
from servetwin.metrics.resources import NamedSeries, resource_series
from servetwin.metrics.tiers import recall_ns, tier_tokens
from servetwin.metrics.timeline import Grid
from servetwin.metrics.tokens import TokenLog

Table = dict[str, NDArray[Any]]
"""Columns of one length, by name, in the order of the file."""


def requests_table(records: Records) -> Table:
    """Return what happened to each request, in the order of the workload.

    Times and latencies are in seconds, NaN where something has not happened; names are None where there is none.
    ``output_tokens`` is the length that the workload states.
    """
    workload, rows = records.outcome.workload, len(records)
    names = [spec.name for spec in records.instances]
    models = [spec.model for spec in records.instances]
    reasons = records.outcome.requests.reasons
    seconds = latencies_s(records, EVERY_ROW)
    undefined = ~records.completed
    table: Table = {
        "request_id": request_ids(records, np.arange(rows)),
        "session_id": _names(workload.session_id, rows),
        "model": _names(workload.model, rows) if workload.model else _pick(models, records.instance),
        "instance": _pick(names, records.instance),
        "state": _pick(STATE_NAMES, records.state),
        "reason": _names([reasons.get(row) for row in range(rows)], rows) if reasons else _names(None, rows),
        "arrival_s": _seconds(records.arrival_ns),
        "first_token_s": _seconds(records.first_token_ns),
        "finish_s": _seconds(records.finish_ns),
        "prompt_tokens": records.prompt_tokens,
        "output_tokens": records.output_tokens,
        "cached_tokens": records.cached_tokens.clip(min=0),
        "recomputed_tokens": records.recomputed_tokens,
        "preemptions": records.preemptions,
        "queue_s": np.where(records.admitted, seconds["queue_s"], np.nan),
        "ttft_s": np.where(records.first_token_ns >= 0, seconds["ttft_s"], np.nan),
        "tpot_s": np.where(undefined, np.nan, seconds["tpot_s"]),
        "e2e_s": np.where(undefined, np.nan, seconds["e2e_s"]),
        **_parts(records, names),
        **_tiers(records),
    }
    table |= encoder_columns(records)
    front_end = records.outcome.front_end
    if front_end is not None:
        delay_s = (front_end.request_ns + front_end.response_ns) / NS_PER_S
        table["client_ttft_s"] = table["ttft_s"] + delay_s
        table["client_e2e_s"] = table["e2e_s"] + delay_s
    return table


def _parts(records: Records, names: Sequence[str]) -> Table:
    """Return where the time of completed requests went, but for ``queue_s``, which stands among the latencies."""
    parts = {
        f"{name}_s": np.where(records.completed, values / NS_PER_S, np.nan)
        for name, values in breakdown_ns(records, EVERY_ROW).items()
        if name != "queue"
    }
    return {"prefill_instance": _pick(names, records.prefill_instance), **parts} if records.apart else {**parts}


def _tiers(records: Records) -> Table:
    """Return what requests had from KV tiers, where there are any."""
    if not records.outcome.tiers:
        return {}
    waited = np.where(records.admitted, recall_ns(records) / NS_PER_S, np.nan)
    return {"tier_tokens": tier_tokens(records), "recall_s": waited}


def resources_table(records: Records, grid: Grid, more: Iterable[NamedSeries] = ()) -> Table:
    """Return the time series of all resources as a long table: by time, then resource, then metric.

    Resources are the instances, the pools where there are several, the links that carry KV or embeddings, encoders, and
    KV tiers; ``more`` are appended.
    """
    keys: list[tuple[str, str, str]] = []
    columns: list[NDArray[Any]] = []
    for kind, name, series in (*resource_series(records, grid), *more):
        keys += [(kind, name, metric) for metric in series]
        columns += series.values()
    named = [np.tile(np.array(part, dtype=object), grid.count) for part in zip(*keys, strict=True)]
    return {
        "time_s": np.repeat(grid.start_ns / NS_PER_S, len(keys)),
        **dict(zip(("kind", "name", "metric"), named, strict=True)),
        "value": np.stack(columns, axis=1, dtype=np.float64).ravel(),
    }


def token_times_table(records: Records, tokens: TokenLog, rows: NDArray[np.int64]) -> Table:
    """Return the time of every token of some requests, by request, then by time; ``token`` counts from 0."""
    row, times_ns = tokens.times_ns(rows)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    lengths = np.diff(np.append(first, len(row)))
    token = np.arange(len(row)) - np.repeat(first, lengths)
    return {"request_id": request_ids(records, row), "token": token, "time_s": times_ns / NS_PER_S}


def request_ids(records: Records, rows: NDArray[np.int64]) -> NDArray[np.object_]:
    """Return the names of some rows: those of the workload, or the row numbers."""
    ids = records.outcome.workload.request_id
    return _pick(ids, rows) if ids is not None else rows.astype(str).astype(object)


def _seconds(times_ns: Integers) -> NDArray[np.float64]:
    """Return times in seconds, NaN where they have not come."""
    return np.where(times_ns >= 0, times_ns / NS_PER_S, np.nan)


def _names(values: Sequence[str | None] | None, rows: int) -> NDArray[np.object_]:
    """Return names as a column of objects, None where there is none."""
    result = np.full(rows, None, dtype=object)
    if values is not None:
        result[:] = values
    return result


def _pick(names: Sequence[str | None], numbers: Integers) -> NDArray[np.object_]:
    """Return the name of each number; None for a negative one."""
    return np.array([*names, None], dtype=object)[np.maximum(numbers, -1)]
