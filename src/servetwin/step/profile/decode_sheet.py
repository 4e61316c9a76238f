"""Attention of decoding requests alone: time over their number and the sum of their contexts."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from servetwin.step.profile.grids import Floats, base_index
from servetwin.step.profile.tables import Counts


class DecodeCurve:
    """The time for one number of decodes, piecewise linear in the sum of their contexts."""

    __slots__ = ("breaks", "slopes", "times")

    def __init__(self, breaks: list[int], times: list[float], slopes: list[float]) -> None:
        self.breaks = breaks
        self.times = times
        self.slopes = slopes

    def at(self, kv_tokens: int) -> float:
        """Return the time of one layer, in nanoseconds."""
        i = max(0, bisect_right(self.breaks, kv_tokens) - 1)
        return self.times[i] + self.slopes[i] * max(0, kv_tokens - self.breaks[i])

    def run(self, kv_tokens: int, step: int, count: int) -> list[float]:
        """Return ``at(kv_tokens + i * step)`` for ``i`` from 0 to ``count - 1``."""
        values: list[float] = []
        end = kv_tokens + step * count
        while kv_tokens < end:
            i = max(0, bisect_right(self.breaks, kv_tokens) - 1)
            start, time, slope = self.breaks[i], self.times[i], self.slopes[i]
            stop = min(end, self.breaks[i + 1]) if i + 1 < len(self.breaks) else end
            if kv_tokens < start:  # below the first sample: constant
                stop = min(stop, start)
                values += [time] * len(range(kv_tokens, stop, step))
            else:
                values += [time + slope * (k - start) for k in range(kv_tokens, stop, step)]
            kv_tokens += step * len(range(kv_tokens, stop, step))
        return values


class DecodeSheet:
    """A monotone table over (decodes, mean context), and how it goes on beyond its ends.

    Between samples it is linear in the number of decodes at equal mean context, and linear in the mean context, thus in
    the tokens read. Beyond the longest context each number of decodes goes on along its own last slope; beyond the
    most decodes each further one costs what the last ones did at that context. No slope falls in the other argument.

    Parameters
    ----------
    decodes, contexts
        The axes, ascending, at least 1 and 0.
    time_ns
        Shape ``(decodes, contexts)``, falling along no axis.
    """

    def __init__(self, decodes: Counts, contexts: Counts, time_ns: Floats) -> None:
        self.last_decodes = int(decodes[-1])
        self.last_context = int(contexts[-1])
        self._decodes = decodes
        self._contexts = contexts
        self._times = time_ns
        self._per_context = self._context_slopes()
        self._per_decode = self._decode_slopes()
        self._curves: dict[int, DecodeCurve] = {}

    def _context_slopes(self) -> Floats:
        """Time per token of mean context beyond the last sample, by number of decodes; never falling."""
        if len(self._contexts) < 2:
            return np.zeros(len(self._decodes))
        base = base_index(self._contexts)
        rise = self._times[:, -1] - self._times[:, base]
        return np.maximum.accumulate(rise / (self._contexts[-1] - self._contexts[base]))

    def _decode_slopes(self) -> Floats:
        """Time per decode beyond the last sample, by context; never falling."""
        if len(self._decodes) < 2:
            return np.asarray(self._times[-1] / self._decodes[-1])
        base = base_index(self._decodes)
        rise = self._times[-1] - self._times[base]
        return np.maximum.accumulate(rise / (self._decodes[-1] - self._decodes[base]))

    def curve(self, decodes: int) -> DecodeCurve:
        """Return the curve for one number of decodes (at least 1)."""
        found = self._curves.get(decodes)
        if found is None:
            found = self._curves[decodes] = self._compute(decodes)
        return found

    def _compute(self, decodes: int) -> DecodeCurve:
        inside = min(decodes, self.last_decodes)
        times = np.array([np.interp(inside, self._decodes, column) for column in self._times.T])
        last_slope = float(np.interp(inside, self._decodes, self._per_context))
        if decodes > inside:
            times = times + (decodes - inside) * self._per_decode
            last_slope *= decodes / inside
        slopes = [*(np.diff(times) / np.diff(self._contexts)).tolist(), last_slope]
        return DecodeCurve(
            (self._contexts * decodes).tolist(), times.tolist(), [float(slope) / decodes for slope in slopes]
        )
