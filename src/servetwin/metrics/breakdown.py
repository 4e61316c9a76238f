"""Where a request's time went: the parts of its end-to-end time, which add up to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servetwin.metrics.records import Records, Rows

PARTS = ("queue", "prefill", "decode", "preempted")
"""Parts of the time of a request that stays where it is."""

APART = ("queue", "prefill", "transfer", "decode_queue", "decode", "preempted")
"""Parts where one instance computes the prompt and another one the output, in their order."""


def breakdown_ns(records: Records, rows: Rows) -> dict[str, NDArray[np.int64]]:
    """Return the parts of the end-to-end time of completed requests, in nanoseconds, by name.

    queue: from arrival until it was first scheduled. prefill: from then until its prompt was computed (the first token,
    or the hand-over). transfer: software's hand-over, and its KV's way. decode_queue: at the second instance, before
    its KV set out and after it landed. decode: the rest. preempted: between a preemption and the next admission, which
    is taken out of prefill and decode. The parts add up to finish - arrival.
    """
    arrival, scheduled = records.arrival_ns[rows], records.first_scheduled_ns[rows]
    computed, finish = records.prompt_ns[rows], records.finish_ns[rows]
    early, in_all = (waited[rows] for waited in records.preempted_ns)
    parts = {
        "queue": scheduled - arrival,
        "prefill": computed - scheduled - early,
        "decode": finish - computed - (in_all - early),
        "preempted": in_all,
    }
    if not records.apart:
        return parts
    apart = records.handed_over[rows]
    come, sent = computed + records.outcome.handoff_ns, records.transfer_ns[rows]
    landed, admitted = records.landed_ns[rows], records.decode_admitted_ns[rows]
    parts["transfer"] = np.where(apart, (come - computed) + (landed - sent), 0)
    parts["decode_queue"] = np.where(apart, (sent - come) + (admitted - landed), 0)
    parts["decode"] -= parts["transfer"] + parts["decode_queue"]
    return {name: parts[name] for name in APART}
