"""Repairing decode tables that do not grow with the context, as attention does."""

from __future__ import annotations

import numpy as np

from servetwin.step.profile.grids import Floats
from servetwin.step.profile.tables import Counts

READING_PART = 0.4
"""Part of a decode's attention, at the table's middle context, that is taken to be the reading of its KV."""

BANDWIDTH_PART = 0.4
"""Part of the memory's bandwidth at which KV is read at least."""

_LEAST_PART = 0.1


def tilted(values: Floats, decodes: Counts, contexts: Counts, more_context: int, kv_read_ns_per_token: float) -> Floats:
    """Return a decode table that grows with the context.

    Some profilers let all decodes of a batch read the same few blocks, out of the cache: with many decodes the times
    are flat over the context, which no memory can do. Their level at the middle of the (geometric) axis is kept, and
    they are tilted about it: to a slope of `READING_PART` of that level, and of no more than reading takes at
    `BANDWIDTH_PART` of the memory's bandwidth. Rows that are as steep already stay as they are.

    Both parts are fitted to the throughput over time of three runs on RTX A6000 (Llama-3.1-8B alone and twice,
    Phi-mini-MoE), which falls as contexts grow: the least sum of WAPE in bins of 3 s, on a grid of 0.1.

    Parameters
    ----------
    values
        Shape ``(decodes, contexts)``, in nanoseconds.
    more_context
        By how much a row's contexts are longer than those that it stands for.
    kv_read_ns_per_token
        Least time in which memory delivers a token's KV; 0: not known, nothing is changed.
    """
    ends = contexts[contexts > 0]
    if not kv_read_ns_per_token or len(ends) < 2:
        return values
    middle = float(np.sqrt(float(ends[0]) * float(ends[-1])))
    level = np.array([np.interp(middle, contexts, row) for row in values])
    slopes = (values[:, -1] - values[:, len(contexts) - len(ends)]) / (ends[-1] - ends[0])
    wanted = np.minimum(READING_PART * level / middle, decodes * kv_read_ns_per_token / BANDWIDTH_PART)
    missing = np.maximum(0.0, wanted - slopes)
    repaired = values + missing[:, None] * (contexts - more_context - middle)[None, :]
    return np.asarray(np.maximum(repaired, _LEAST_PART * values))
