"""Chunks of a prompt that shrink as its context grows, so that all take about as long (SGLang's dynamic chunking).

The later chunks of a long prompt attend to more tokens. In a pipeline the unequal times become bubbles on every stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servetwin.core.errors import InputError

LEAST_ALIGNMENT_TOKENS = 64
"""Chunks are multiples of a KV block's tokens, and at least of this (SGLang)."""

LEAST_GROWTH = 1e-6
"""Of a token's time from no context to the longest; less is a rounding error of the fit."""


@dataclass(frozen=True, slots=True)
class DynamicChunking:
    """How many tokens a step may compute while a prompt is open.

    The time of a prompt of ``l`` tokens is taken to be ``quadratic_ns l^2 + linear_ns l`` and a constant. A chunk of
    ``x`` tokens behind ``L`` others is to take as long as the first one (``ChunkSizePredictor`` in SGLang's
    ``scheduler_pp_mixin.py``; its margin of 100 tokens before the end of the context is left out):

        f(L + x) - f(L) = f(base_tokens) - f(0)

    Attributes
    ----------
    quadratic_ns, linear_ns
        Coefficients of the fit, above 0 and not below 0.
    base_tokens
        Of the first chunk (``max_num_batched_tokens``; SGLang's ``--chunked-prefill-size``).
    smooth_factor
        How far a chunk goes from ``base_tokens`` towards the solution: 0 not at all, 1 all the way.
    alignment_tokens
        A chunk is a multiple of this, rounded down, at least one.
    """

    quadratic_ns: float
    linear_ns: float
    base_tokens: int
    smooth_factor: float = 0.75
    alignment_tokens: int = LEAST_ALIGNMENT_TOKENS

    def tokens_behind(self, context_tokens: int) -> int:
        """Return the most tokens of a step whose first open prompt has so many tokens computed.

        At least a quarter of ``base_tokens``, before it is aligned, and at most ``base_tokens``.
        """
        slope_ns = 2 * self.quadratic_ns * context_tokens + self.linear_ns
        target_ns = (self.quadratic_ns * self.base_tokens + self.linear_ns) * self.base_tokens
        root = math.sqrt(slope_ns * slope_ns + 4 * self.quadratic_ns * target_ns)
        solved = 2 * target_ns / (slope_ns + root)
        smoothed = self.base_tokens + self.smooth_factor * (solved - self.base_tokens)
        tokens = max(int(smoothed), self.base_tokens // 4)
        aligned = tokens // self.alignment_tokens * self.alignment_tokens
        return min(max(aligned, self.alignment_tokens), self.base_tokens)


def fit_chunk_times(chunks: Sequence[tuple[int, int]], times_ns: Sequence[float]) -> tuple[float, float]:
    """Return the coefficients (quadratic above 0, linear at least 0) that fit the times of chunks, by least squares.

    Parameters
    ----------
    chunks
        ``(new_tokens, context_tokens)``; a chunk of ``x`` tokens behind ``L`` is to take ``f(L + x) - f(L)`` and a
        constant.

    Raises
    ------
    InputError
        If a token's time does not grow with the tokens before it: all chunks are alike then.
    """
    new, context = np.array(chunks, dtype=np.float64).T
    columns = np.column_stack([new * new + 2 * context * new, new, np.ones_like(new)])
    quadratic, linear, _ = np.linalg.lstsq(columns, np.array(times_ns, dtype=np.float64), rcond=None)[0].tolist()
    if 2 * quadratic * context.max() <= LEAST_GROWTH * abs(linear):
        raise InputError(
            f"a token's time grows by {2 * quadratic:g} ns with each token before it, which is nothing to dynamic "
            "chunking. With this model, device and step model later chunks take no longer: leave it out"
        )
    return quadratic, max(0.0, linear)
