"""Whose energy it was: each step's energy, shared among the requests in it.

The KV that decodes read belongs to each by its own context; all else (operations, weights that all rows share, kernels,
host, links) is shared by tokens. Every step's energy is given out in full.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servetwin.energy.steps import InstanceSteps

Floats = NDArray[np.float64]


def request_shares(steps: InstanceSteps, step_j: Floats, decode_kv_j: Floats, requests: int) -> tuple[Floats, Floats]:
    """Return each request's share of one instance's steps: for its prompt, and for its output; two columns of joules.

    Any quantity of steps can be shared out like this (seconds, money).

    Parameters
    ----------
    step_j
        Energy of each step.
    decode_kv_j
        The part of it that is shared by the contexts of decodes.
    requests
        How many rows there are in all.
    """
    spans, chunks = steps.spans, steps.chunks
    members = np.zeros(len(step_j))
    covered = np.bincount(spans.first, minlength=len(spans.rounds) + 1) - np.bincount(
        spans.end, minlength=len(spans.rounds) + 1
    )
    members[spans.rounds] = np.cumsum(covered)[: len(spans.rounds)]
    computed = np.bincount(chunks.step, chunks.tokens, minlength=len(step_j))
    kv_tokens = steps.columns.decode_kv_tokens
    kv_j = np.where((kv_tokens > 0) & (members > 0), np.minimum(decode_kv_j, step_j), 0.0)
    tokens = members + computed
    per_token = np.divide(step_j - kv_j, tokens, out=np.zeros_like(step_j), where=tokens > 0)
    per_kv_token = np.divide(kv_j, kv_tokens, out=np.zeros_like(step_j), where=kv_tokens > 0)
    prompts = np.bincount(chunks.request, chunks.tokens * per_token[chunks.step], minlength=requests)
    outputs = np.bincount(spans.request, _of_spans(steps, per_token, per_kv_token), minlength=requests)
    return prompts.astype(np.float64), outputs.astype(np.float64)


def _of_spans(steps: InstanceSteps, per_token: Floats, per_kv_token: Floats) -> Floats:
    """Return the energy of each span: in round j a request reads ``context + j - first`` tokens of KV."""
    spans = steps.spans
    by_round, kv_by_round = per_token[spans.rounds], per_kv_token[spans.rounds]
    tokens, kv, moment = (
        np.concatenate([[0.0], np.cumsum(values)])
        for values in (by_round, kv_by_round, kv_by_round * np.arange(len(spans.rounds)))
    )
    first, end = spans.first, spans.end
    own = tokens[end] - tokens[first]
    read = (spans.context - first) * (kv[end] - kv[first]) + moment[end] - moment[first]
    return np.asarray(own + np.maximum(read, 0.0))
