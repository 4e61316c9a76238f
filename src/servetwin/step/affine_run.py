"""Runs of decode steps whose time is affine in the KV tokens read: ``round(base + slope * tokens)``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_VECTOR_FROM = 48
"""Steps from which NumPy is faster than a loop."""


def affine_step_ns(base_ns: float, slope_ns: float, kv_tokens: int) -> int:
    """Return the time of one step, rounded once; `affine_run_ns` computes the same expression."""
    return round(base_ns + slope_ns * kv_tokens) or 1


def affine_run_ns(
    base_ns: float, slope_ns: float, kv_tokens: int, growth: int, max_steps: int, limit_ns: int
) -> Sequence[int]:
    """Return the times of consecutive steps, the first over ``kv_tokens`` tokens, each next over ``growth`` more.

    Parameters
    ----------
    base_ns, slope_ns
        Both at least 0, so that a later step is never faster: this bounds how many steps reach the limit.
    max_steps, limit_ns
        The run ends after ``max_steps`` steps, or after the first one at which the sum reaches ``limit_ns``.
    """
    first = affine_step_ns(base_ns, slope_ns, kv_tokens)
    steps = min(max_steps, max(1, -(-limit_ns // first)))
    if steps >= _VECTOR_FROM:
        return _vector_run(base_ns, slope_ns, kv_tokens, growth, steps, limit_ns)
    contexts = range(kv_tokens, kv_tokens + growth * steps, growth) if growth else (kv_tokens,) * steps
    durations = [round(base_ns + slope_ns * tokens) or 1 for tokens in contexts]
    excess = sum(durations) - limit_ns
    while len(durations) > 1 and excess >= durations[-1]:
        excess -= durations.pop()
    return durations


def _vector_run(
    base_ns: float, slope_ns: float, kv_tokens: int, growth: int, steps: int, limit_ns: int
) -> Sequence[int]:
    tokens = np.arange(steps, dtype=np.float64) * growth + kv_tokens  # whole numbers below 2**53: exact
    durations = np.maximum(np.rint(base_ns + slope_ns * tokens), 1.0).astype(np.int64)
    needed = int(np.searchsorted(np.cumsum(durations), limit_ns)) + 1
    run: list[int] = durations[:needed].tolist()
    return run
