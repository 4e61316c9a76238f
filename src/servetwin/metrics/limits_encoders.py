"""What limits a deployment before its instances: encoders, or the way of embeddings."""

from __future__ import annotations

import numpy as np

from servetwin.core.units import NS_PER_S
from servetwin.metrics.breakdown import breakdown_ns
from servetwin.metrics.encoding import encoder_summary, encoding_ns
from servetwin.metrics.limits_between import WAITING_MATTERS, Limit, busiest_link, in_percent, in_time
from servetwin.metrics.records import Records

ENCODERS, EMBEDDINGS = "encoders", "embeddings"


def what_limits_encoding(records: Records, waiting_share: float) -> Limit | None:
    """Return the limit if requests wait for encoders or embeddings longer than for anything behind them, else None.

    Parameters
    ----------
    waiting_share
        Share of the mean end-to-end time that requests wait in instances' first queues, or after a preemption.
    """
    parts = encoding_ns(records)
    if not parts:
        return None
    done = np.flatnonzero(records.completed)
    behind = {name: float(values.mean()) for name, values in breakdown_ns(records, done).items()}
    total = sum(behind.values()) or 1.0
    means = {name: float(part[done].clip(min=0).mean()) for name, part in parts.items()}
    kind, mean = max(((ENCODERS, means["encoder_queue"]), (EMBEDDINGS, means["embedding"])), key=lambda item: item[1])
    others = max(behind.get("transfer", 0.0), behind.get("decode_queue", 0.0)) / total
    share = mean / total
    if share < max(WAITING_MATTERS, waiting_share, others):
        return None
    takes = f"takes {in_time(mean / NS_PER_S)}, {share:.0%} of the mean end-to-end time"
    busy = in_percent(encoder_summary(records)["encoders"]["busy_fraction"])
    if kind == ENCODERS:
        sentence = f"Requests wait for the encoders, which are busy {busy} of the time: waiting for them {takes}."
    else:
        link = busiest_link(records, records.outcome.links)
        sentence = f"The way of embeddings from the encoders {takes}{link}; the encoders are busy {busy} of the time."
    return Limit(kind, sentence)
