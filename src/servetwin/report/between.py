"""Figures of a deployment in which requests go from device to device: encoders, prefill and decode instances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servetwin.core.units import NS_PER_S
from servetwin.metrics.breakdown import breakdown_ns
from servetwin.metrics.encoding import encoding_ns
from servetwin.metrics.measurements import Measurements
from servetwin.metrics.records import Records
from servetwin.report.figures import COLORS, bars, lines
from servetwin.report.page import Figure

_LABELS = {
    "encoder_queue": "queue at encoders",
    "encode": "encoding",
    "embedding": "embeddings' way",
    "queue": "queue",
    "prefill": "prefill",
    "transfer": "hand-off and transfer",
    "decode_queue": "queue at decode",
    "decode": "decode",
    "preempted": "preempted",
}

_SLOWEST = {"slowest 10 %": 0.1, "slowest 1 %": 0.01}

_MOST_MODELS = 8


def breakdown(measurements: Measurements) -> Figure:
    """Return where the time to the last token goes: of all requests, of the slowest ones, and of each model's."""
    classes = _classes(measurements.records)
    means = [
        {name: float(values.mean()) / NS_PER_S for name, values in _parts(measurements.records, rows).items()}
        for rows in classes.values()
    ]
    parts = {label: np.array([mean[name] for mean in means]) for name, label in _LABELS.items() if name in means[0]}
    caption = "mean time of each part, from arrival to finish"
    return bars("breakdown", "Where a request's time goes", caption, list(classes), parts, "s")


def _parts(records: Records, rows: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the parts of requests' time, with those of encoding taken out of the queue."""
    encoding = {name: values[rows].clip(min=0) for name, values in encoding_ns(records).items()}
    parts = breakdown_ns(records, rows)
    parts["queue"] = parts["queue"] - sum(encoding.values())
    return encoding | parts


def _classes(records: Records) -> dict[str, NDArray[np.int64]]:
    """Return the rows of classes of requests, by label: all, those with the longest end-to-end time, each model's."""
    rows = np.flatnonzero(records.measured)
    e2e = records.finish_ns[rows] - records.arrival_ns[rows]
    slowest_first = rows[np.argsort(-e2e, kind="stable")]
    classes = {"all": rows}
    classes |= {label: slowest_first[: max(1, round(share * len(rows)))] for label, share in _SLOWEST.items()}
    models = list(dict.fromkeys(spec.model for spec in records.instances))
    if 1 < len(models) <= _MOST_MODELS:
        model_of = np.array([models.index(spec.model) for spec in records.instances])[records.instance[rows]]
        classes |= {str(model): rows[model_of == number] for number, model in enumerate(models)}
    return {label: chosen for label, chosen in classes.items() if len(chosen)}


def link_use(measurements: Measurements) -> list[Figure]:
    """Return the use of the links that carry KV or embeddings over time: of the busiest ones, most used first."""
    table, times = measurements.resources, measurements.timeline["time_s"]
    mine = (table["kind"] == "link") & (table["metric"] == "utilization")
    names = list(dict.fromkeys(table["name"][mine]))
    if not names:
        return []
    use = table["value"][mine].reshape(len(times), len(names)).T * 100
    shown = np.argsort(-use.mean(axis=1), kind="stable")[: len(COLORS)]
    more = f"; {len(shown)} of {len(names)} links, the busiest" if len(names) > len(shown) else ""
    series = {names[i]: use[i] for i in shown}
    caption = f"share of the bandwidth, per interval{more}"
    interval_s = measurements.grid.interval_ns / NS_PER_S
    return [lines("links", "Links", caption, times, series, "%", interval_s=interval_s, rates=True)]


def moving(measurements: Measurements) -> Figure:
    """Return how many requests' KV is on its way over time."""
    table, times = measurements.resources, measurements.timeline["time_s"]
    interval_s = measurements.grid.interval_ns / NS_PER_S
    on_way = (table["kind"] == "instance") & (table["metric"] == "transferring")
    count = table["value"][on_way].reshape(len(times), -1).sum(axis=1)
    what = "requests whose KV is on its way"
    return lines("moving", "KV transfers", what, times, {"transferring": count}, "requests", interval_s=interval_s)
