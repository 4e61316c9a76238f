"""The time of a decode-only step, and of runs of them: a flat part and one root per kind of attention layer."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

_VECTOR_FROM = 24
"""Steps from which NumPy is faster than a loop."""


class Root(NamedTuple):
    """``sqrt(square + (slope * min(tokens, cap) + offset)**2)`` over the tokens of context of all decodes together."""

    square: float
    slope: float
    offset: float
    cap: float


class DecodeTime(NamedTuple):
    """The time of steps with one number of decodes, in nanoseconds.

    Attributes
    ----------
    flat_ns
        What does not depend on the context.
    floor_ns
        The accelerator's part of a step (all but ``host_ns``) takes at least this: launches by the host.
    host_ns
        Added at the end.
    roots
        Attention, by kind of layer. None shrinks with the context, so a later step is never faster.
    """

    flat_ns: float
    floor_ns: float
    host_ns: float
    roots: tuple[Root, ...]

    def added_to(self, total: float, tokens: int, share: float) -> float:
        """Return a time with attention added, at a share of the bandwidth, one kind of layer after the other."""
        for square, slope, offset, cap in self.roots:
            data = (slope * (tokens if tokens < cap else cap) + offset) / share
            total += sqrt(square + data * data)
        return total

    def step_ns(self, tokens: int) -> int:
        """Return the time of one step, rounded once.

        Written out here and in `run_ns`, where simulations spend their time; `added_to` has the same expressions.
        """
        total = self.flat_ns
        for square, slope, offset, cap in self.roots:
            data = slope * (tokens if tokens < cap else cap) + offset
            total += sqrt(square + data * data)
        if total < self.floor_ns:
            total = self.floor_ns
        return round(total + self.host_ns) or 1

    def exact_ns(self, tokens: int) -> float:
        """Return the time of one step, not rounded."""
        return max(self.added_to(self.flat_ns, tokens, 1.0), self.floor_ns) + self.host_ns

    def run_ns(self, tokens: int, growth: int, max_steps: int, limit_ns: int) -> Sequence[int]:
        """Return the times of consecutive steps, the first over ``tokens`` tokens, each next over ``growth`` more.

        The run ends after ``max_steps`` steps, or after the first one at which the sum reaches ``limit_ns``.
        """
        if max_steps >= _VECTOR_FROM:
            max_steps = min(max_steps, max(1, -(-limit_ns // self.step_ns(tokens))))
            if max_steps >= _VECTOR_FROM:
                return self._vector_run(tokens, growth, max_steps, limit_ns)
        flat_ns, floor_ns, host_ns, roots = self
        durations: list[int] = []
        left_ns = limit_ns
        for _ in range(max_steps):
            total = flat_ns
            for square, slope, offset, cap in roots:
                data = slope * (tokens if tokens < cap else cap) + offset
                total += sqrt(square + data * data)
            duration = round((floor_ns if total < floor_ns else total) + host_ns) or 1
            durations.append(duration)
            left_ns -= duration
            if left_ns <= 0:
                break
            tokens += growth
        return durations

    def _vector_run(self, tokens: int, growth: int, steps: int, limit_ns: int) -> Sequence[int]:
        contexts = np.arange(steps, dtype=np.float64) * growth + tokens  # whole numbers below 2**53: exact
        total = np.full(steps, self.flat_ns)
        for square, slope, offset, cap in self.roots:
            data = np.minimum(contexts, cap)
            data *= slope
            data += offset
            data *= data
            data += square
            total += np.sqrt(data, out=data)
        np.maximum(total, self.floor_ns, out=total)
        total += self.host_ns
        durations = np.maximum(np.rint(total, out=total), 1.0, out=total).astype(np.int64)
        if int(durations[-1]) * steps <= limit_ns:  # the last step is the longest
            whole: list[int] = durations.tolist()
            return whole
        needed = int(np.searchsorted(np.cumsum(durations), limit_ns)) + 1
        run: list[int] = durations[:needed].tolist()
        return run
