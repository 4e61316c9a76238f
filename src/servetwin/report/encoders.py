"""Encoders in a report: how busy they are, who waits for them, and what encoding takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from servetwin.cluster.embeddings import encoder_names
from servetwin.core.units import NS_PER_S
from servetwin.metrics.measurements import Measurements
from servetwin.metrics.stats import STATISTICS
from servetwin.report.between import link_use
from servetwin.report.figures import COLORS, lines
from servetwin.report.page import Figure, charts, section
from servetwin.report.tables import duration, number, percent, table

_LABELS = {
    "encoder_queue_s": "queue before the encoders",
    "encode_s": "encoding",
    "embedding_s": "embeddings' way",
}


def encoder_figures(measurements: Measurements) -> list[Figure]:
    """Return the encoders' use and their queue over time, and links' where no other figure has them."""
    if measurements.records.outcome.encoding is None:
        return []
    series, times = measurements.resources, measurements.timeline["time_s"]
    mine = series["kind"] == "encoder"
    interval_s = measurements.grid.interval_ns / NS_PER_S
    busy = series["value"][mine & (series["metric"] == "busy_fraction")].reshape(len(times), -1).T * 100
    use = dict(zip(encoder_names(len(busy)), busy, strict=True)) if len(busy) <= len(COLORS) else _spread(busy)
    states = {name: series["value"][mine & (series["metric"] == name)] for name in ("waiting", "encoding", "sending")}
    caption = "share of each interval in which a batch is encoded"
    figures = [
        lines("encoders", "Encoders", caption, times, use, "%", interval_s=interval_s, rates=True),
        lines("encoding", "Requests with images", "before their instance's queue", times, states, "requests"),
    ]
    return figures if measurements.records.apart else [*figures, *link_use(measurements)]


def _spread(busy: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {"mean": busy.mean(axis=0), "busiest": busy.max(axis=0), "least busy": busy.min(axis=0)}


def encoder_section(summary: dict[str, Any], figures: list[Figure]) -> str:
    """Return the section; empty where there are no encoders."""
    if not figures:
        return ""
    encoders = summary["encoders"]
    facts = [
        ["encoders", f"{encoders['workers']:,}"],
        ["requests", number(encoders["requests"])],
        ["batches", number(encoders["batches"])],
        ["busy", percent(encoders["busy_fraction"])],
        ["embeddings, GB", number(encoders["embedding_bytes"] / 1e9)],
    ]
    if "energy" in summary:
        facts.append(["energy, kWh", number(summary["energy"]["pools_j"]["encoders"] / 3.6e6)])
    times = [[label, *map(duration, encoders[key].values())] for key, label in _LABELS.items()]
    return section("Encoders", charts(figures) + table(["", *STATISTICS], times) + table(["", ""], facts))
